"""Greedy transcripts: rows that are through leave the batch, and a CTC head may guess what the LLM then verifies."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from transformers.cache_utils import DynamicCache

LOOKAHEAD = 4
"""After a wrong guess, tokens of the rest among which the LLM's own token is looked for."""
PLAIN = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "min_new_tokens": 0}
CHANGES_LOGITS = ("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id")

Guess = Callable[[torch.Tensor, torch.Tensor], Sequence[list[int]]]
"""CTC log probabilities [N, L, 257] and their lengths [N] -> the tokens that each row may answer with."""
Watch = Callable[[int, list[int]], bool]
"""Number of a row and its tokens so far -> whether to go on with it."""


@dataclass
class Decoded:
    """Answers as tokens, without the end of sequence, and how often the LLM was run for all of them."""

    tokens: list[list[int]]
    passes: int


def is_greedy(model: Any) -> bool:
    """Whether `generate` would take the likeliest token each time, as `decode` does: nothing else changes logits."""
    config = model.generation_config
    plain = all(getattr(config, name, None) in (None, value) for name, value in PLAIN.items())
    return plain and not any(getattr(config, name, None) for name in CHANGES_LOGITS)


def can_draft(model: Any) -> bool:
    """Whether `decode` may be given guesses: a CTC head makes them, and positions in the cache can be masked.

    Causal inserted layers keep inputs of convolutions, and sliding windows count positions: neither allows holes.
    """
    holes = model.config.upscale is None or model.scope == "speech"
    sliding = any(DynamicCache(config=model.llm.config).is_sliding)
    return model.ctc_head is not None and holes and not sliding


@torch.inference_mode()
def decode(
    model: Any,
    inputs: dict[str, torch.Tensor],
    limits: Sequence[int],
    guess: Optional[Guess],
    word_starts: Container[int],
    at_once: Optional[int] = None,
    watch: Optional[Watch] = None,
) -> Decoded:
    """What greedy `generate` gives; with a guess in as many passes as the worst of the batch has mistakes, and two.

    A pass runs the LLM over the tokens guessed next; those it would have chosen itself stay, then comes its own token,
    and the rest of the guess goes on behind it. Rejected positions stay in the cache, masked.
    (Speculative decoding, Leviathan et al. 2023, with the CTC head as the draft model.)

    Args:
        inputs: of `processor.prompt_batch`, left-padded, with one audio piece in each row, on the model's device.
        limits: most tokens of each row.
        guess: None to go one token at a time; otherwise the model is one that `can_draft`.
        word_starts: tokens that begin a word; a guess that went wrong goes on with its next word.
        at_once: most guessed tokens in a pass, where a pass costs more for more of them.
        watch: is told of every row after each pass; a row that it does not want to go on leaves the batch as it is.
    """
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    llm = _CachedLLM(model, inputs["attention_mask"])
    out = llm.prefill(inputs, with_ctc=guess is not None)
    first = out.logits[:, -1].argmax(-1).tolist()
    guesses = guess(out.ctc_log_probs, out.ctc_lengths) if guess is not None else [[]] * len(first)
    starts = zip(range(len(first)), limits, first, map(list, guesses), strict=True)
    all_rows = [_Row(*start) for start in starts]
    for row in all_rows:
        row.rest = _realign(row.rest, row.own, word_starts)
    rows = all_rows
    while True:
        # The LLM's own token ends every pass; a row that is through leaves the batch.
        going = [i for i, row in enumerate(rows) if row.goes_on(ends)]
        if watch is not None:
            going = [i for i in going if watch(rows[i].number, rows[i].tokens)]
        if not going:
            return Decoded([row.tokens for row in all_rows], llm.passes)
        if len(going) < len(rows):
            llm.keep(going)
            rows = [rows[i] for i in going]
        blocks = [row.block(at_once) for row in rows]
        own = llm.run(blocks)
        turns = zip(rows, blocks, own, strict=True)
        llm.accept([row.verify(block[1:], after, ends, word_starts) for row, block, after in turns])


@dataclass
class _Row:
    """A row's limit, the LLM's own next token, what may follow it, and the answer before it."""

    number: int
    limit: int
    own: int
    rest: list[int]
    tokens: list[int] = field(default_factory=list)

    def goes_on(self, ends: Container[int]) -> bool:
        """Take the LLM's own token; false where the answer is through."""
        if self.own in ends:
            return False
        self.tokens.append(self.own)
        return len(self.tokens) < self.limit

    def block(self, at_once: Optional[int]) -> list[int]:
        """Tokens of the next pass: the LLM's own, and as much of the guess as leaves room for one more."""
        return [self.own, *self.rest[: self.limit - len(self.tokens) - 1][:at_once]]

    def verify(self, guessed: list[int], own: list[int], ends: Container[int], word_starts: Container[int]) -> int:
        """Take of `guessed` what the LLM, with `own` after each token of the block, would have chosen too.

        Returns how many of the block's tokens stay.
        """
        same = next((i for i, token in enumerate(guessed) if token != own[i] or token in ends), len(guessed))
        self.tokens += self.rest[:same]
        self.own = own[same]
        self.rest = _realign(self.rest[same:], self.own, word_starts)
        return same + 1


class _CachedLLM:
    """An LLM with the cache of a batch, in which some positions are masked."""

    def __init__(self, model: Any, mask: torch.Tensor) -> None:
        self.model, self.mask, self.passes = model, mask, 0
        self.positions = mask.cumsum(1)[:, -1]  # [B] of the next token
        self.steps = torch.arange(0, device=mask.device)  # places in the last blocks
        self.cache = DynamicCache(config=model.llm.config)

    def prefill(self, inputs: dict[str, torch.Tensor], with_ctc: bool) -> Any:
        """The prompts, and what the CTC head says of their speech where that is wanted."""
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        return self._run(**inputs, position_ids=positions, logits_to_keep=1, return_ctc=with_ctc)

    def run(self, blocks: list[list[int]]) -> list[list[int]]:
        """The likeliest token after each token of each row's block."""
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(block) for block in blocks], batch_first=True)
        ids = padded.to(self.mask.device)
        self.steps = torch.arange(ids.shape[1], device=ids.device)
        mask = torch.cat([self.mask, self._first([len(block) for block in blocks])], 1)
        positions = self.positions[:, None] + self.steps
        return self._run(input_ids=ids, attention_mask=mask, position_ids=positions).logits.argmax(-1).tolist()

    def accept(self, counts: list[int]) -> None:
        """Of the last blocks, keep so many tokens in each row; the others stay in the cache, masked."""
        self.mask = torch.cat([self.mask, self._first(counts)], 1)
        self.positions = self.positions + torch.tensor(counts, device=self.mask.device)

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows of the batch alone."""
        kept = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(kept)
        self.cache.speech_start = self.cache.speech_start[kept]  # type: ignore[attr-defined]  # ours
        self.mask, self.positions = self.mask[kept], self.positions[kept]

    def _first(self, counts: list[int]) -> torch.Tensor:
        """A mask [B, places] of the first places of each row."""
        return (self.steps < torch.tensor(counts, device=self.mask.device)[:, None]).to(self.mask.dtype)

    def _run(self, **inputs: Any) -> Any:
        self.passes += 1
        return self.model(**inputs, past_key_values=self.cache, use_cache=True)


def _realign(rest: list[int], token: int, word_starts: Container[int]) -> list[int]:
    """What may follow the LLM's own `token` where the guess had `rest`.

    What the guess has behind that token, if it is near; else its next word, which is one further on where the token
    begins a word of its own.
    """
    near = rest[:LOOKAHEAD]
    if token in near:
        return rest[near.index(token) + 1 :]
    later = range(1 if token in word_starts else 0, len(rest))
    return rest[next((i for i in later if rest[i] in word_starts), len(rest)) :]
