"""E-Branchformer: Branchformer with Enhanced Merging for Speech Recognition (Kim et al., SLT 2022)."""

from __future__ import annotations

import copy
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from depthup.config import UpscaleConfig
from depthup.model.layers.depthwise_conv import depthwise_conv
from depthup.model.layers.inserted import View
from depthup.model.layers.transformer import attend_freely, last_linear, zero_


class EBranchformerBlock(nn.Module):
    """Macaron feed-forwards around two parallel branches, self-attention and cgMLP, merged by a convolution (Fig. 1).

    In the LLM's own width the block adds to the LLM's states directly; `style: espnet` or another `width` puts it,
    with a final norm, between a projection in and a zeroed projection out. Either way it starts as the identity.
    """

    def __init__(
        self,
        config: UpscaleConfig,
        llm_config: PreTrainedConfig,
        layer_idx: int,
        below: Any = None,
    ) -> None:
        """`below`: base layer to copy attention, feed-forwards and norms from where shapes allow."""
        super().__init__()
        hidden = llm_config.hidden_size
        width = config.width or hidden
        llm_style = config.style == "llm"
        causal = config.scope != "speech"
        feed_forward_width = config.feed_forward_width or round(llm_config.intermediate_size * width / hidden)
        cgmlp_width = config.cgmlp_width or round(width * 4 / 3) * 2
        copies = below is not None and llm_style and config.init == "copy" and width == hidden
        copies_attention = copies and config.num_heads in (None, llm_config.num_attention_heads)
        copies_feed_forward = copies and feed_forward_width == llm_config.intermediate_size

        def norm(source: str) -> nn.Module:
            if copies:
                return copy.deepcopy(getattr(below, source))
            # ESPnet's LayerNorm has this epsilon.
            return nn.RMSNorm(width, eps=1e-6) if llm_style else nn.LayerNorm(width, eps=1e-12)

        def feed_forward() -> nn.Module:
            if copies_feed_forward:
                return copy.deepcopy(below.mlp)
            return FeedForward(width, feed_forward_width, gated=llm_style, dropout=config.dropout)

        self.norm_ff_macaron = norm("post_attention_layernorm")
        self.feed_forward_macaron = feed_forward()
        self.norm_mha = norm("input_layernorm")
        if copies_attention:
            self.attn = copy.deepcopy(below.self_attn)
        else:
            heads = config.num_heads or default_heads(width, llm_config)
            self.attn = SelfAttention(width, heads, llm_config, rotary=llm_style, bias=not llm_style)
        attend_freely(self.attn, layer_idx, causal)
        self.norm_mlp = norm("post_attention_layernorm")
        self.cgmlp = ConvolutionalGatingMLP(width, cgmlp_width, config.kernel_size, config.dropout)
        self.depthwise_conv_fusion = DepthwiseConv(2 * width, config.kernel_size)
        self.merge_proj = nn.Linear(2 * width, width)
        self.norm_ff = norm("post_attention_layernorm")
        self.feed_forward = feed_forward()
        self.dropout = nn.Dropout(config.dropout)

        self.projected = width != hidden or not llm_style
        if self.projected:
            self.norm_final = norm("")
            self.norm_in = nn.RMSNorm(hidden, eps=1e-6)
            self.proj_in = nn.Linear(hidden, width)
            self.proj_out = nn.Linear(width, hidden)
            zero_(self.proj_out)
        else:
            zero_(last_linear(self.feed_forward_macaron))
            zero_(last_linear(self.feed_forward))
            zero_(self.merge_proj)

    def forward(self, states: torch.Tensor, view: View) -> torch.Tensor:
        if self.projected:
            return states + self.proj_out(self.encode(self.proj_in(self.norm_in(states)), view))
        return self.encode(states, view)

    def encode(self, x: torch.Tensor, view: View) -> torch.Tensor:
        """[N, L, width] -> [N, L, width]: the block of the paper, and of ESPnet's `EBranchformerEncoderLayer`."""
        x = x + 0.5 * self.dropout(self.feed_forward_macaron(self.norm_ff_macaron(x)))
        attended = self.dropout(self._attend(self.norm_mha(x), view))
        gated = self.dropout(self.cgmlp(self.norm_mlp(x), view))
        both = torch.cat([attended, gated], -1)
        x = x + self.dropout(self.merge_proj(both + self.depthwise_conv_fusion(both, view, "merge")))
        x = x + 0.5 * self.dropout(self.feed_forward(self.norm_ff(x)))
        return self.norm_final(x) if self.projected else x

    def _attend(self, x: torch.Tensor, view: View) -> torch.Tensor:
        return self.attn(
            hidden_states=x,
            attention_mask=view.attention_mask,
            position_ids=view.position_ids,
            position_embeddings=view.position_embeddings,
            past_key_values=view.cache,
        )[0]


def default_heads(width: int, llm_config: PreTrainedConfig) -> int:
    """As many heads of the base's head size as fit the width, or its nearest smaller divisor."""
    head_size = getattr(llm_config, "head_dim", None) or llm_config.hidden_size // llm_config.num_attention_heads
    heads = max(1, width // head_size)
    while width % heads:
        heads -= 1
    return heads


class FeedForward(nn.Module):
    """Position-wise feed-forward with SiLU, gated (SwiGLU) or plain."""

    def __init__(self, width: int, inner: int, gated: bool, dropout: float) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False) if gated else None
        self.up_proj = nn.Linear(width, inner, bias=not gated)
        self.down_proj = nn.Linear(inner, width, bias=not gated)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up = self.up_proj(x)
        inner = F.silu(up) if self.gate_proj is None else F.silu(self.gate_proj(x)) * up
        return self.down_proj(self.dropout(inner))


class SelfAttention(nn.Module):
    """Multi-head self-attention with its own rotary positions, through the base's attention kernel."""

    def __init__(self, width: int, num_heads: int, llm_config: PreTrainedConfig, rotary: bool, bias: bool) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"upscale.num_heads {num_heads} does not divide the layer's width {width}")
        self.config = llm_config
        self.head_dim = width // num_heads
        self.num_key_value_groups = 1
        self.scaling = self.head_dim**-0.5
        self.rotary = rotary
        self.layer_idx, self.is_causal = 0, False
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj = nn.Linear(width, width, bias=bias)
        self.v_proj = nn.Linear(width, width, bias=bias)
        self.o_proj = nn.Linear(width, width, bias=bias)

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
        if self.rotary:
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


class ConvolutionalGatingMLP(nn.Module):
    """cgMLP (Sakuma et al. 2021): a wide projection, half of which gates the other after a depthwise convolution."""

    def __init__(self, width: int, inner: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.channel_proj1 = nn.Linear(width, inner)
        self.norm = nn.LayerNorm(inner // 2, eps=1e-12)
        self.conv = DepthwiseConv(inner // 2, kernel_size)
        # The gate starts near one, as in ESPnet, so that the branch passes its input on.
        nn.init.normal_(self.conv.conv.weight, std=1e-6)
        nn.init.ones_(self.conv.conv.bias)
        self.dropout = nn.Dropout(dropout)
        self.channel_proj2 = nn.Linear(inner // 2, width)

    def forward(self, x: torch.Tensor, view: View) -> torch.Tensor:
        content, gate = F.gelu(self.channel_proj1(x)).chunk(2, -1)
        gate = self.conv(self.norm(gate), view, "gate")
        return self.channel_proj2(self.dropout(content * gate))


class DepthwiseConv(nn.Module):
    """Depthwise convolution over the real positions of a view: both ways, or causal with its past in the cache."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel_size, groups=channels)

    def forward(self, x: torch.Tensor, view: View, stream: str) -> torch.Tensor:
        """[N, L, C] -> [N, L, C]; `stream` names this convolution's inputs in the cache."""
        past = self.conv.kernel_size[0] - 1
        x = x * view.real[..., None]  # what does not exist must not leak into its neighbours
        if not view.causal:
            x = F.pad(x, (0, 0, past // 2, past // 2))
        elif view.cache_layer is not None:
            x = view.cache_layer.extend(stream, x, past)
        else:
            x = F.pad(x, (0, 0, past, 0))
        return depthwise_conv(x, self.conv.weight, self.conv.bias)
