"""A plain transformer block: the base's own decoder layer, copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from depthup.errors import UserError
from depthup.model.layers import base_parts
from depthup.model.layers.kind import LayerKind, Place, View, attend_freely, copied, last_linear, zero_


@dataclass
class Transformer(LayerKind):
    """A transformer layer like the base's own."""

    init: Literal["copy", "random"] = "copy"
    """Weights from the base layer below, or at random; output projections start at zero either way."""

    def build(self, place: Place) -> nn.Module:
        return TransformerBlock(place, random=self.init == "random")

    @staticmethod
    def as_base_layer(layer: nn.Module) -> nn.Module:
        assert isinstance(layer, TransformerBlock)
        return layer.layer


class TransformerBlock(nn.Module):
    """A copy of the base layer below with its two output projections zeroed (LLaMA-Pro, Wu et al. 2024, 3.1)."""

    def __init__(self, place: Place, random: bool) -> None:
        super().__init__()
        self.layer = copied(place.below, random)
        attention = base_parts.attention_of(self.layer)
        feed_forward = base_parts.dense_feed_forward_of(self.layer, place.llm_config.hidden_size)
        if attention is None or feed_forward is None:
            raise UserError(
                f"upscale.layer transformer: the base's {type(place.below).__name__} is no attention "
                "and one feed-forward, so a copy of it cannot start as the identity; use e_branchformer"
            )
        attend_freely(attention, place)
        zero_(last_linear(attention))
        zero_(last_linear(feed_forward))

    def forward(self, states: torch.Tensor, view: View) -> torch.Tensor:
        self.layer.gradient_checkpointing = False  # the inserted layer around it recomputes already
        output = self.layer(
            states,
            attention_mask=view.attention_mask,
            position_ids=view.position_ids,
            position_embeddings=view.position_embeddings,
            **{base_parts.cache_argument(type(self.layer)): view.cache},
            **view.kwargs,
        )
        return output[0] if isinstance(output, tuple) else output
