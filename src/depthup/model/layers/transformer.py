"""A plain transformer block: the base's own decoder layer, copied."""

from __future__ import annotations

import copy

import torch
from torch import nn

from depthup.model.layers.inserted import View


def last_linear(module: nn.Module) -> nn.Linear:
    """The output projection of an attention or feed-forward module: its last linear layer."""
    return [m for m in module.modules() if isinstance(m, nn.Linear)][-1]


def zero_(linear: nn.Linear) -> None:
    """Make a linear layer compute zero."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def attend_freely(attention: nn.Module, layer_idx: int, causal: bool) -> None:
    """Give a base's attention a new place in the cache, no window, and one or both directions."""
    attention.layer_idx = layer_idx
    attention.is_causal = causal
    if hasattr(attention, "sliding_window"):
        attention.sliding_window = None


class TransformerBlock(nn.Module):
    """A copy of the base layer below with its two output projections zeroed (LLaMA-Pro, Wu et al. 2024, 3.1)."""

    def __init__(self, below: nn.Module, layer_idx: int, causal: bool, copy_weights: bool) -> None:
        super().__init__()
        self.layer = copy.deepcopy(below)
        if not copy_weights:
            for module in self.layer.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
        attend_freely(self.layer.self_attn, layer_idx, causal)
        zero_(last_linear(self.layer.self_attn))
        zero_(last_linear(self.layer.mlp))

    def forward(self, states: torch.Tensor, view: View) -> torch.Tensor:
        self.layer.gradient_checkpointing = False  # the inserted layer around it recomputes already
        output = self.layer(
            states,
            attention_mask=view.attention_mask,
            position_ids=view.position_ids,
            past_key_values=view.cache,
            position_embeddings=view.position_embeddings,
            **view.kwargs,
        )
        return output[0] if isinstance(output, tuple) else output
