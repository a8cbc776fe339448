"""Greedy transcripts in few passes of the LLM: the CTC head guesses, the LLM verifies the whole guess at once."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

LOOKAHEAD = 4
"""After a wrong guess, tokens of the rest among which the LLM's own token is looked for."""
PLAIN = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "min_new_tokens": 0}
CHANGES_LOGITS = ("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id")

Guess = Callable[[torch.Tensor, torch.Tensor], Sequence[list[int]]]
"""CTC log probabilities [N, L, 257] and their lengths [N] -> the tokens that each row may answer with."""


@dataclass
class Decoded:
    """Answers as tokens, without the end of sequence, and how often the LLM was run for all of them."""

    tokens: list[list[int]]
    passes: int


def can_draft(model: Any) -> bool:
    """Whether `decode` applies: a CTC head, plain greedy arg max, and caches in which positions can be masked.

    Causal inserted layers keep inputs of convolutions, and sliding windows count positions: neither allows holes.
    """
    if getattr(model, "ctc_head", None) is None:
        return False
    config = model.generation_config
    plain = all(getattr(config, name, None) in (None, value) for name, value in PLAIN.items())
    plain = plain and not any(getattr(config, name, None) for name in CHANGES_LOGITS)
    holes = model.config.upscale is None or model.scope == "speech"
    sliding = any(DynamicCache(config=model.llm.config).is_sliding)
    return plain and holes and not sliding


@torch.inference_mode()
def decode(
    model: Any,
    inputs: dict[str, torch.Tensor],
    limits: Sequence[int],
    guess: Guess,
    word_starts: Container[int],
) -> Decoded:
    """What greedy `generate` gives, in as many passes as the worst guess of the batch has mistakes, and two.

    A pass runs the LLM over the tokens guessed next; those it would have chosen itself stay, then comes its own token,
    and the rest of the guess goes on behind it. Rejected positions stay in the cache, masked.
    (Speculative decoding, Leviathan et al. 2023, with the CTC head as the draft model.)

    Args:
        inputs: of `processor.prompt_batch`, left-padded, with one audio piece in each row, on the model's device.
        limits: most tokens of each row.
        word_starts: tokens that begin a word; a guess that went wrong goes on with its next word.
    """
    mask = inputs["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.llm.config)
    options = {"past_key_values": cache, "use_cache": True}
    out = model(**inputs, position_ids=positions, logits_to_keep=1, return_ctc=True, **options)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    tokens: list[list[int]] = [[] for _ in limits]
    guesses = [list(ids) for ids in guess(out.ctc_log_probs, out.ctc_lengths)]
    chosen = out.logits[:, -1].argmax(-1).tolist()
    next_position = positions[:, -1] + 1
    rows, passes = list(range(len(limits))), 1
    for row, token in enumerate(chosen):
        guesses[row] = _realign(guesses[row], token, word_starts)
    while True:
        # The LLM's own token ends every pass; a row that is through leaves the batch.
        going = []
        for i, (row, token) in enumerate(zip(rows, chosen, strict=True)):
            if token not in ends:
                tokens[row].append(token)
                if len(tokens[row]) < limits[row]:
                    going.append(i)
        if not going:
            return Decoded(tokens, passes)
        if len(going) < len(rows):
            kept = torch.tensor(going, device=mask.device)
            cache.batch_select_indices(kept)
            cache.speech_start = cache.speech_start[kept]
            mask, next_position = mask[kept], next_position[kept]
            rows, chosen = [rows[i] for i in going], [chosen[i] for i in going]
        blocks = [
            [token, *guesses[row][: limits[row] - len(tokens[row]) - 1]]
            for row, token in zip(rows, chosen, strict=True)
        ]
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(block) for block in blocks], batch_first=True)
        ids = ids.to(mask.device)
        steps = torch.arange(ids.shape[1], device=mask.device)
        sizes = torch.tensor([len(block) for block in blocks], device=mask.device)
        out = model(
            input_ids=ids,
            attention_mask=torch.cat([mask, (steps < sizes[:, None]).to(mask.dtype)], dim=1),
            position_ids=next_position[:, None] + steps,
            **options,
        )
        passes += 1
        own = out.logits.argmax(-1).tolist()
        right = []
        for i, (row, block) in enumerate(zip(rows, blocks, strict=True)):
            guessed = block[1:]
            same = next((k for k, token in enumerate(guessed) if token != own[i][k]), len(guessed))
            accepted = guessed[:same]
            if any(token in ends for token in accepted):  # the guess ends where the LLM would
                same = next(k for k, token in enumerate(accepted) if token in ends)
                accepted = accepted[:same]
            tokens[row] += accepted
            chosen[i] = own[i][same]
            guesses[row] = _realign(guesses[row][same:], chosen[i], word_starts)
            right.append(same + 1)
        taken = torch.tensor(right, device=mask.device)
        mask = torch.cat([mask, (steps < taken[:, None]).to(mask.dtype)], dim=1)
        next_position = next_position + taken


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
