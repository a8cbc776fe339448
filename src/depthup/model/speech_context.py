"""What inserted layers must know about one forward pass, and what they keep between passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from depthup.config import Scope
from depthup.model.layers.spans import Spans

NEVER = torch.iinfo(torch.long).max
"""`start` of a sequence without speech."""


@dataclass
class SpeechContext:
    """Travels as keyword argument `speech` through the base's forward to every layer."""

    scope: Scope
    spans: Optional[Spans]
    active: Optional[torch.Tensor]
    """[B, T] bool: positions that exist for a causal inserted layer; None where no position does."""
    causal_mask: Optional[torch.Tensor]
    """Attention mask of causal inserted layers; their keys begin at the first active position."""
    offset: int
    """Positions already in the cache."""

    @classmethod
    def build(
        cls,
        scope: Scope,
        speech_ids: Optional[torch.Tensor],
        embeds: torch.Tensor,
        attention_mask: Optional[torch.Tensor],
        cache: Optional[Cache],
        config: PreTrainedConfig,
    ) -> SpeechContext:
        """
        Args:
            speech_ids: [B, T], 0 for text, else the number of the audio piece within the row; None for text only.
            embeds: [B, T, D], for shape, dtype and device.
            attention_mask: [B, cached + T], 1 where a position is real; None when all are.
            cache: remembers in `speech_start` [B] the column of each row's first speech position.
            config: the base's configuration, for the kind of attention kernel.
        """
        batch, length = embeds.shape[:2]
        offset = int(cache.get_seq_length()) if cache is not None else 0
        if attention_mask is not None and attention_mask.ndim != 2 and scope != "speech":
            raise ValueError(f"scope {scope}: give attention_mask as [B, cached + T], 1 where a position is real")
        spans = Spans.find(speech_ids) if speech_ids is not None else None
        start = speech_start(speech_ids, cache, offset, batch, embeds.device)
        if scope == "speech":
            return cls(scope, _seeing_both_ways(spans, embeds, config), None, None, offset)
        if scope == "all":
            start = torch.zeros_like(start)
        elif not _has_heard(spans, cache):
            return cls(scope, spans, None, None, offset)
        columns = torch.arange(offset + length, device=embeds.device)
        exists = columns >= start[:, None]
        keys = exists if attention_mask is None else exists & attention_mask.bool()
        active = keys[:, offset:]
        # A row without speech keeps its own keys: its output is discarded, and a softmax over nothing is not a number.
        own = torch.ones_like(keys) if attention_mask is None else attention_mask.bool()
        keys = torch.where((start == NEVER)[:, None], own, keys)
        # A GPU is waited for at prefill alone.
        full = (scope == "all" and attention_mask is None) or (not offset and bool(keys.all()))
        mask = create_causal_mask(
            config=config,
            inputs_embeds=embeds,
            attention_mask=None if full else keys.long(),
            past_key_values=_Seen(offset),  # type: ignore[arg-type]
        )
        return cls(scope, spans, active, mask, offset)


class _Seen:
    """What a mask asks of a cache: inserted layers see all that came before, whatever window the base's layers have."""

    is_sliding = [False]
    is_compileable = False

    def __init__(self, positions: int) -> None:
        self.positions = positions

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.positions

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.positions + query_length, 0


def _has_heard(spans: Optional[Spans], cache: Optional[Cache]) -> bool:
    """Whether there is speech in this pass or was in an earlier one."""
    heard = spans is not None or getattr(cache, "has_heard", False)
    if cache is not None:
        cache.has_heard = heard  # type: ignore[attr-defined]
    return heard


def _seeing_both_ways(spans: Optional[Spans], embeds: torch.Tensor, config: PreTrainedConfig) -> Optional[Spans]:
    if spans is not None:
        spans.attention_mask = create_bidirectional_mask(
            config=config,
            inputs_embeds=embeds.new_empty(*spans.real.shape, 0),
            attention_mask=None if bool(spans.real.all()) else spans.real.long(),
        )
    return spans


def speech_start(
    speech_ids: Optional[torch.Tensor], cache: Optional[Cache], offset: int, batch: int, device: torch.device
) -> torch.Tensor:
    """Column [B] of each row's first speech position, `NEVER` without one; kept in the cache for the next pass."""
    start = torch.full((batch,), NEVER, device=device)
    if speech_ids is not None:
        is_speech = speech_ids > 0
        start = torch.where(is_speech.any(1), is_speech.int().argmax(1) + offset, start)
    if cache is not None:
        earlier = getattr(cache, "speech_start", None)
        if earlier is not None:
            start = torch.minimum(start, earlier.repeat_interleave(batch // len(earlier)))
        cache.speech_start = start
    return start


class InsertedCacheLayer(DynamicLayer):
    """Keys and values of an inserted layer.

    A position the layer was not asked about (text before any speech) is filled with zeros, which its masks hide.
    """

    offset = 0
    is_compileable = True  # else a static cache with it no longer counts as static, and empty places are attended to

    @classmethod
    def stand_in(cls, cache: Cache, layer_idx: int, offset: int) -> None:
        """Make it the cache's entry of inserted layer `layer_idx`; `offset` positions precede this pass."""
        while len(cache.layers) <= layer_idx:  # caches are made for the base's layers, whose entries come first
            cache.layers.append(cls())
        cache.layers[layer_idx].offset = offset

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        missing = self.offset - self.get_seq_length()
        if missing > 0:
            empty = (*key_states.shape[:2], missing, key_states.shape[-1])
            super().update(key_states.new_zeros(empty), value_states.new_zeros(empty))
        return super().update(key_states, value_states)
