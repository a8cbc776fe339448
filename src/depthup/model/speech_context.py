"""What inserted layers must know about one forward pass, and what they keep between passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from depthup.config import Scope

NEVER = torch.iinfo(torch.long).max
"""`start` of a sequence without speech."""


@dataclass
class Spans:
    """The speech spans of a batch, one row per span: N spans of at most L frames."""

    rows: torch.Tensor  # [N, L] batch row of each frame
    cols: torch.Tensor  # [N, L] column of each frame within this pass
    real: torch.Tensor  # [N, L] bool, false where a shorter span is padded
    attention_mask: Optional[torch.Tensor]  # both ways within a span, in the form the attention kernel wants

    @classmethod
    def find(cls, speech_ids: torch.Tensor, embeds: torch.Tensor, config: PreTrainedConfig) -> Optional[Spans]:
        """Runs of equal, positive `speech_ids` [B, T], in reading order; None where there are none."""
        rows, cols = torch.nonzero(speech_ids > 0, as_tuple=True)
        if len(rows) == 0:
            return None
        ids = speech_ids[rows, cols]
        new_span = torch.ones_like(rows, dtype=torch.bool)
        new_span[1:] = (rows[1:] != rows[:-1]) | (ids[1:] != ids[:-1]) | (cols[1:] != cols[:-1] + 1)
        span = new_span.cumsum(0) - 1
        lengths = torch.bincount(span)
        frame = torch.arange(len(rows), device=rows.device) - new_span.nonzero()[:, 0][span]
        real = torch.arange(int(lengths.max()), device=rows.device) < lengths[:, None]
        padded_rows, padded_cols = torch.zeros_like(real, dtype=torch.long), torch.zeros_like(real, dtype=torch.long)
        padded_rows[span, frame], padded_cols[span, frame] = rows, cols
        mask = create_bidirectional_mask(
            config=config,
            inputs_embeds=embeds.new_empty(*real.shape, 0),
            attention_mask=None if bool(real.all()) else real.long(),
        )
        return cls(padded_rows, padded_cols, real, mask)

    def gather(self, states: torch.Tensor) -> torch.Tensor:
        """[B, T, ...] -> [N, L, ...]."""
        return states[self.rows, self.cols]

    def scatter(self, states: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """[B, T, D] with the real frames of `update` [N, L, D] put in their places."""
        return states.index_put((self.rows[self.real], self.cols[self.real]), update[self.real].to(states.dtype))


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
        offset = cache.get_seq_length() if cache is not None else 0
        spans = Spans.find(speech_ids, embeds, config) if speech_ids is not None else None
        start = speech_start(speech_ids, cache, offset, batch, embeds.device)
        if scope == "speech":
            return cls(scope, spans, None, None, offset)
        if scope == "all":
            start = torch.zeros_like(start)
        columns = torch.arange(offset + length, device=embeds.device)
        exists = columns >= start[:, None]
        keys = exists if attention_mask is None else exists & attention_mask.bool()
        active = keys[:, offset:]
        if not bool(active.any()):
            return cls(scope, spans, None, None, offset)
        # A row without speech keeps its own keys: its output is discarded, and a softmax over nothing is not a number.
        own = torch.ones_like(keys) if attention_mask is None else attention_mask.bool()
        keys = torch.where((start == NEVER)[:, None], own, keys)
        mask = create_causal_mask(
            config=config,
            inputs_embeds=embeds,
            attention_mask=None if bool(keys.all()) else keys.long(),
            past_key_values=cache,
        )
        return cls(scope, spans, active, mask, offset)


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
    """Keys and values of an inserted layer, and the inputs of its causal convolutions.

    Convolution inputs are kept for every position, as keys are, so that the cache can be cropped.
    A position the layer was not asked about (text before any speech) is filled with zeros, which its masks hide.
    """

    def __init__(self) -> None:
        super().__init__()
        self.streams: dict[str, torch.Tensor] = {}
        self.offset = 0

    @classmethod
    def of(cls, cache: Cache, layer_idx: int, offset: int) -> InsertedCacheLayer:
        """The cache entry of inserted layer `layer_idx`, made on first use; `offset` positions precede this pass."""
        if not isinstance(cache.layers[layer_idx], cls):
            cache.layers[layer_idx] = cls()
        layer = cache.layers[layer_idx]
        layer.offset = offset
        return layer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        missing = self.offset - self.get_seq_length()
        if missing > 0:
            empty = (*key_states.shape[:2], missing, key_states.shape[-1])
            super().update(key_states.new_zeros(empty), value_states.new_zeros(empty))
        return super().update(key_states, value_states)

    def extend(self, name: str, inputs: torch.Tensor, past: int) -> torch.Tensor:
        """Append convolution inputs [B, T, C] to stream `name`; returns the last `past` earlier ones and them."""
        earlier = self.streams.get(name, inputs[:, :0])
        missing = self.offset - earlier.shape[1]
        earlier = torch.cat([earlier, inputs.new_zeros(inputs.shape[0], missing, inputs.shape[2])], 1)
        self.streams[name] = torch.cat([earlier, inputs], 1)
        context = torch.nn.functional.pad(earlier, (0, 0, past, 0))[:, self.offset :]
        return torch.cat([context, inputs], 1)

    def reset(self) -> None:
        super().reset()
        self.streams = {}

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self.streams = {k: v.index_select(0, beam_idx.to(v.device)) for k, v in self.streams.items()}

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        if tokens_to_remove:
            self.streams = {k: v[:, :tokens_to_remove] for k, v in self.streams.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.streams = {k: v.repeat_interleave(repeats, 0) for k, v in self.streams.items()}

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.streams = {k: v[indices] for k, v in self.streams.items()}
