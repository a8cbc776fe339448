"""Greedy transcripts: rows that are through leave the batch, and a draft may guess what the LLM then verifies."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from transformers.cache_utils import DynamicLayer

from depthup.model.connectors import Speech
from depthup.transcribe.cached_llm import CachedLLM

LOOKAHEAD = 4
"""After a wrong guess, tokens of the rest among which the LLM's own token is looked for."""
PLAIN = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "min_new_tokens": 0}
CHANGES_LOGITS = ("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id")

Guess = Callable[[Speech], Sequence[list[int]]]
"""What the front end made of the rows' recordings -> the tokens that each row may answer with."""
Watch = Callable[[int, list[int]], bool]
"""Number of a row and its tokens so far -> whether to go on with it."""


@dataclass
class Decoded:
    """Answers as tokens, without the end of sequence, and how often the LLM was run for all of them."""

    tokens: list[list[int]]
    scores: list[list[float]]
    """The log probability of each token."""
    passes: int
    speech: Optional[Speech] = None
    """What the front end made of the recordings, with what the CTC head says where it was asked."""


def is_greedy(model: Any) -> bool:
    """Whether `generate` would take the likeliest token each time, as `decode` does: nothing else changes logits."""
    config = model.generation_config
    plain = all(getattr(config, name, None) in (None, value) for name, value in PLAIN.items())
    return plain and not any(getattr(config, name, None) for name in CHANGES_LOGITS)


def can_draft(model: Any) -> bool:
    """Whether `decode` may be given guesses: the front end makes them, and positions in the cache can be masked.

    Causal inserted layers keep inputs of convolutions, sliding windows count positions, and what is recurrent has taken
    in a rejected token for good: none of them allows holes.
    """
    holes = model.config.upscale is None or model.scope == "speech"
    by_column = all(type(layer) is DynamicLayer for layer in model.new_cache().layers)
    return model.makes_out and holes and by_column


@torch.inference_mode()
def decode(
    model: Any,
    inputs: dict[str, torch.Tensor],
    limits: Sequence[int],
    guess: Optional[Guess],
    word_starts: Container[int],
    at_once: Optional[int] = None,
    watch: Optional[Watch] = None,
    with_ctc: bool = False,
) -> Decoded:
    """What greedy `generate` gives; with a guess in as many passes as the worst of the batch has mistakes, and two.

    A pass runs the LLM over the tokens guessed next; those it would have chosen itself stay, then comes its own token,
    and the rest of the guess goes on behind it. Rejected positions stay in the cache, masked.
    (Speculative decoding, Leviathan et al. 2023, with the front end as the draft model.)

    Args:
        inputs: of `processor.prompt_batch`, left-padded, with one audio piece in each row, on the model's device.
        limits: most tokens of each row.
        guess: None to go one token at a time; otherwise the model is one that `can_draft`.
        word_starts: tokens that begin a word; a guess that went wrong goes on with its next word.
        at_once: most guessed tokens in a pass, where a pass costs more for more of them.
        watch: is told of every row after each pass; a row that it does not want to go on leaves the batch as it is.
        with_ctc: give what the CTC head says even if nothing is guessed from it.
    """
    answers = Decoding(model, inputs, limits, guess, word_starts, with_ctc=with_ctc)
    rows = answers.rows
    while True:
        answers.settle(watch and (lambda row: watch(row.tag, row.tokens)))
        if not answers.rows:
            tokens, scores = [row.tokens for row in rows], [row.scores for row in rows]
            return Decoded(tokens, scores, answers.llm.passes, answers.llm.speech)
        answers.step(at_once)


@dataclass(eq=False)
class Answering:
    """An answer that is being written: its limit, the LLM's own next token, what may follow, and what precedes it.

    `score` and `scores` are log probabilities of `own` and `tokens`.
    """

    tag: Any
    limit: int
    own: int
    score: float
    rest: list[int]
    tokens: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def goes_on(self, ends: Container[int]) -> bool:
        """Take the LLM's own token; false where the answer is through."""
        if self.own in ends:
            return False
        self.tokens.append(self.own)
        self.scores.append(self.score)
        return len(self.tokens) < self.limit

    def block(self, at_once: Optional[int]) -> list[int]:
        """Tokens of the next pass: the LLM's own, and as much of the guess as leaves room for one more."""
        return [self.own, *self.rest[: self.limit - len(self.tokens) - 1][:at_once]]

    def verify(
        self,
        guessed: list[int],
        own: list[int],
        scores: list[float],
        ends: Container[int],
        word_starts: Container[int],
    ) -> int:
        """Take of `guessed` what the LLM, with `own` after each token of the block, would have chosen too.

        Returns how many of the block's tokens stay.
        """
        same = next((i for i, token in enumerate(guessed) if token != own[i] or token in ends), len(guessed))
        self.tokens += self.rest[:same]
        self.scores += scores[:same]
        self.own, self.score = own[same], scores[same]
        self.rest = _realign(self.rest[same:], self.own, word_starts)
        return same + 1


class Decoding:
    """A batch of answers that are written pass by pass; between passes rows leave it and other batches join it.

    `settle` and `step` take turns; a batch that is new, or was stepped, may join another of which the same is true.
    """

    def __init__(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        limits: Sequence[int],
        guess: Optional[Guess],
        word_starts: Container[int],
        tags: Optional[Sequence[Any]] = None,
        with_ctc: bool = False,
    ) -> None:
        """Run the prompts. `tags` are what rows are known by, by default their numbers; all else as for `decode`."""
        ends = model.generation_config.eos_token_id
        self.ends, self.word_starts = set(ends if isinstance(ends, list) else [ends]), word_starts
        self.llm = CachedLLM(model, inputs, with_ctc or guess is not None)
        speech = self.llm.speech
        guesses = guess(speech) if guess is not None and speech is not None else [[]] * len(limits)
        tags = range(len(limits)) if tags is None else tags
        self.rows = [
            Answering(tag, limit, own, score, _realign(list(rest), own, word_starts))
            for tag, limit, own, score, rest in zip(tags, limits, *self.llm.first, guesses, strict=True)
        ]

    def settle(self, wanted: Optional[Callable[[Answering], bool]] = None) -> list[Answering]:
        """Take the LLM's own tokens, which end every pass.

        Rows that are through leave the batch and are returned, and so do those that go on and are not `wanted`.
        """
        kept = [i for i, row in enumerate(self.rows) if row.goes_on(self.ends) and (wanted is None or wanted(row))]
        left = [row for i, row in enumerate(self.rows) if i not in kept]
        if left and kept:
            self.llm.keep(kept)
        self.rows = [self.rows[i] for i in kept]
        return left

    def step(self, at_once: Optional[int] = None) -> None:
        """One pass over all rows, with at most so many guessed tokens in each."""
        blocks = [row.block(at_once) for row in self.rows]
        turns = zip(self.rows, blocks, *self.llm.run(blocks), strict=True)
        self.llm.accept(
            [row.verify(block[1:], own, scores, self.ends, self.word_starts) for row, block, own, scores in turns]
        )

    def join(self, other: Decoding) -> bool:
        """Write the other batch's answers too; false where caches such as theirs cannot be put together."""
        if not self.llm.join(other.llm):
            return False
        self.rows += other.rows
        return True


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
