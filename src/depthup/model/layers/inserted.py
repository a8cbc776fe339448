"""An inserted layer stands in the base's list of layers and obeys its decoder-layer call."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from depthup.config import Scope
from depthup.model.layers.kind import View
from depthup.model.speech_context import InsertedCacheLayer, SpeechContext


class InsertedLayer(GradientCheckpointingLayer):
    """Lets `block` change the positions of its scope and nothing else.

    `block(states, view)` maps [N, L, D] to [N, L, D]. Positions outside the scope pass through bit for bit.
    """

    def __init__(self, block: nn.Module, layer_idx: int, scope: Scope) -> None:
        """`layer_idx`: its place in a cache."""
        super().__init__()
        self.block = block
        self.layer_idx = layer_idx
        self.scope = scope
        self.in_tuple = False
        """Whether the base's layers return tuples, as Falcon-H1's do."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Optional[torch.Tensor] = None,
        position_ids: Optional[torch.Tensor] = None,
        past_key_values: Optional[Cache] = None,
        position_embeddings: Optional[tuple[torch.Tensor, torch.Tensor]] = None,
        speech: Optional[SpeechContext] = None,
        **kwargs: Any,
    ) -> torch.Tensor | tuple[torch.Tensor]:
        changed = self._changed(
            hidden_states, position_ids, past_key_values, position_embeddings, speech=speech, **kwargs
        )
        return (changed,) if self.in_tuple else changed

    def _changed(
        self,
        hidden_states: torch.Tensor,
        position_ids: Optional[torch.Tensor],
        past_key_values: Optional[Cache],
        position_embeddings: Optional[tuple[torch.Tensor, torch.Tensor]],
        speech: Optional[SpeechContext],
        **kwargs: Any,
    ) -> torch.Tensor:
        if speech is None:
            if self.scope == "all":
                raise RuntimeError("with scope `all` the LLM runs inside its SpeechLM, which says what is padding")
            return hidden_states
        if past_key_values is None:
            past_key_values = kwargs.pop("layer_past", None)  # GPT-NeoX's name for it
        batch, length = hidden_states.shape[:2]
        if position_ids is None:
            position_ids = torch.arange(speech.offset, speech.offset + length, device=hidden_states.device)[None]
        position_ids = position_ids.expand(batch, length)
        if position_embeddings is not None:
            cos, sin = position_embeddings
            position_embeddings = cos.expand(batch, -1, -1), sin.expand(batch, -1, -1)
        if speech.scope == "speech":
            return self._within_spans(hidden_states, position_ids, position_embeddings, speech)
        if speech.active is None:
            return hidden_states
        if past_key_values is not None:
            InsertedCacheLayer.stand_in(past_key_values, self.layer_idx, speech.offset)
        view = View(
            speech.causal_mask,
            position_ids,
            position_embeddings,
            spans=speech.spans,
            cache=past_key_values,
            kwargs=kwargs,
        )
        changed = self.block(hidden_states, view).to(hidden_states.dtype)
        return torch.where(speech.active[..., None], changed, hidden_states)

    def _within_spans(
        self,
        hidden_states: torch.Tensor,
        position_ids: torch.Tensor,
        position_embeddings: Optional[tuple[torch.Tensor, torch.Tensor]],
        speech: SpeechContext,
    ) -> torch.Tensor:
        spans = speech.spans
        if spans is None:
            return hidden_states
        if position_embeddings is not None:
            position_embeddings = spans.gather(position_embeddings[0]), spans.gather(position_embeddings[1])
        view = View(spans.attention_mask, spans.gather(position_ids), position_embeddings, real=spans.real)
        return spans.scatter(hidden_states, self.block(spans.gather(hidden_states), view))
