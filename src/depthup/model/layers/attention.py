"""Self-attention for a layer that is narrower or wider than the base."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward


class SelfAttention(nn.Module):
    """Multi-head self-attention with its own rotary positions, through the base's attention kernel.

    It has as many heads of the base's head size as fit the width, or its nearest smaller divisor.
    """

    def __init__(self, width: int, llm_config: PreTrainedConfig) -> None:
        super().__init__()
        heads = llm_config.num_attention_heads
        head_size = getattr(llm_config, "head_dim", None) or llm_config.hidden_size // heads
        num_heads = max(1, width // head_size)
        while width % num_heads:
            num_heads -= 1
        self.config = llm_config
        self.head_dim = width // num_heads
        self.num_key_value_groups = 1
        self.scaling = self.head_dim**-0.5
        self.layer_idx, self.is_causal = 0, False
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Optional[torch.Tensor],
        position_ids: torch.Tensor,
        past_key_values: Optional[Cache],
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        batch, length, width = hidden_states.shape
        heads = (batch, length, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *self._rotary_tables(position_ids, query.dtype))
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, _ = attend(self, query, key, value, attention_mask, scaling=self.scaling, is_causal=self.is_causal)
        return self.o_proj(output.reshape(batch, length, width)), None

    def _rotary_tables(self, position_ids: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        exponents = torch.arange(0, self.head_dim, 2, device=position_ids.device) / self.head_dim
        angles = position_ids[..., None].float() * 10000.0**-exponents  # [N, L, head size / 2]
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(dtype), angles.sin().to(dtype)
