"""An LLM with the cache of a batch that rows leave, that other batches join, and in which positions may be masked."""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from depthup.model.connectors import Speech
from depthup.model.speech_context import NEVER, InsertedCacheLayer


class CachedLLM:
    """An LLM with the cache of a batch, in which some positions are masked."""

    def __init__(self, model: Any, inputs: dict[str, torch.Tensor], with_ctc: bool) -> None:
        """Run the prompts `inputs`; with `with_ctc` what the CTC head says of their speech is in `speech` too."""
        self.model, self.passes = model, 0
        self.cache = model.new_cache()
        self.speech: Optional[Speech] = None
        if "input_features" in inputs:
            heard = model.hear(**inputs, with_ctc=with_ctc)
            self.speech, self.mask = heard.speech, heard.attention_mask
            prompt = {"inputs_embeds": heard.inputs_embeds, "speech_ids": heard.speech_ids}
        else:
            self.mask = inputs["attention_mask"]
            prompt = {"input_ids": inputs["input_ids"]}
        self.positions = self.mask.sum(1)  # [B] of the next token
        self.steps = torch.arange(0, device=self.mask.device)  # places in the last blocks
        places = (self.mask.cumsum(1) - 1).clamp(min=0)
        out = self._run(**prompt, attention_mask=self.mask, position_ids=places, logits_to_keep=1)
        self.first = likeliest(out.logits[:, -1])
        """The likeliest token after each prompt, and its log probability."""

    def run(self, blocks: list[list[int]]) -> tuple[list[list[int]], list[list[float]]]:
        """The likeliest token after each token of each row's block, and its log probability."""
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(block) for block in blocks], batch_first=True)
        ids = padded.to(self.mask.device)
        self.steps = torch.arange(ids.shape[1], device=ids.device)
        mask = torch.cat([self.mask, self._first([len(block) for block in blocks])], 1)
        positions = self.positions[:, None] + self.steps
        return likeliest(self._run(input_ids=ids, attention_mask=mask, position_ids=positions).logits)

    def accept(self, counts: list[int]) -> None:
        """Of the last blocks, keep so many tokens in each row; the others stay in the cache, masked."""
        self.mask = torch.cat([self.mask, self._first(counts)], 1)
        self.positions = self.positions + torch.tensor(counts, device=self.mask.device)

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows of the batch alone, without the columns that only others filled."""
        kept = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(kept)
        self.cache.speech_start = self.cache.speech_start[kept]  # type: ignore[attr-defined]  # ours
        self.mask, self.positions = self.mask[kept], self.positions[kept]
        empty = int(self.mask.any(0).long().argmax())
        if empty and self._may_move():
            self._move(-empty)

    def join(self, other: CachedLLM) -> bool:
        """Take in the rows of another; the shorter past is padded on its left, masked.

        False, and nothing happens, where a layer's cache is more than keys and values by column.
        """
        if not (self._may_move() and other._may_move()):
            return False
        longer = other.mask.shape[1] - self.mask.shape[1]
        self._move(max(longer, 0))
        other._move(max(-longer, 0))
        for cache, wanted in ((self.cache, other.cache), (other.cache, self.cache)):
            while len(cache.layers) < len(wanted.layers):  # inserted layers that this batch never met
                cache.layers.append(InsertedCacheLayer())
        for i in range(len(self.cache.layers)):
            self.cache.layers[i] = _stacked(self.cache.layers[i], other.cache.layers[i], self.mask, other.mask)
        mine, others = self.cache, other.cache
        mine.speech_start = torch.cat([mine.speech_start, others.speech_start])  # type: ignore[attr-defined]
        mine.has_heard = getattr(mine, "has_heard", False) or getattr(others, "has_heard", False)  # type: ignore[attr-defined]
        self.mask = torch.cat([self.mask, other.mask])
        self.positions = torch.cat([self.positions, other.positions])
        return True

    def _may_move(self) -> bool:
        return all(type(layer) in (DynamicLayer, InsertedCacheLayer) for layer in self.cache.layers)

    def _move(self, columns: int) -> None:
        """Put everything so many columns to the right, and the new ones are masked; or to the left."""
        if not columns:
            return
        self.mask = _moved(self.mask[..., None], columns)[..., 0]
        start = self.cache.speech_start  # type: ignore[attr-defined]
        self.cache.speech_start = torch.where(start == NEVER, start, start + columns)  # type: ignore[attr-defined]
        for layer in self.cache.layers:
            seen = layer.get_seq_length()
            if seen + min(columns, 0) <= 0:  # nothing is left of it, or nothing was in it
                layer.reset()
                continue
            layer.keys, layer.values = _moved(layer.keys, columns), _moved(layer.values, columns)

    def _first(self, counts: list[int]) -> torch.Tensor:
        """A mask [B, places] of the first places of each row."""
        return (self.steps < torch.tensor(counts, device=self.mask.device)[:, None]).to(self.mask.dtype)

    def _run(self, **inputs: Any) -> Any:
        self.passes += 1
        return self.model(**inputs, past_key_values=self.cache, use_cache=True)


def likeliest(logits: torch.Tensor) -> tuple[list[Any], list[Any]]:
    """The likeliest tokens of logits [..., vocabulary] and their log probabilities, both [...]."""
    best, tokens = logits.max(-1)
    return tokens.tolist(), (best.float() - logits.float().logsumexp(-1)).tolist()


def _moved(tensor: torch.Tensor, columns: int) -> torch.Tensor:
    """[..., T, D] with so many columns of zeros before it, or without its first ones."""
    return F.pad(tensor, (0, 0, columns, 0)) if columns > 0 else tensor[..., -columns:, :]


def _stacked(one: CacheLayerMixin, other: CacheLayerMixin, mask: torch.Tensor, others: torch.Tensor) -> CacheLayerMixin:
    """Two layers' keys and values by column as one's; a layer that saw none of a batch's columns has zeros there."""
    if not other.get_seq_length() and not one.get_seq_length():
        return one
    kept = one if one.get_seq_length() else other
    kept.keys = _rows(one.keys, other.keys, mask, others)
    kept.values = _rows(one.values, other.values, mask, others)
    return kept


def _rows(
    one: Optional[torch.Tensor], other: Optional[torch.Tensor], mask: torch.Tensor, others: torch.Tensor
) -> torch.Tensor:
    """[B, ..., T, D] of two batches, whose masks say their B and T, as of one; columns not seen yet are zeros."""
    known = one if one is not None else other
    assert known is not None
    whole = []
    for part, own in ((one, mask), (other, others)):
        if part is None:
            part = known.new_zeros(len(own), *known.shape[1:-2], 0, known.shape[-1])
        whole.append(F.pad(part, (0, 0, 0, own.shape[1] - part.shape[-2])))
    return torch.cat(whole)
