"""Clips in, segments out: batches of any mix of lengths, each through the LLM at once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Optional, TypeVar

import numpy as np
import torch

from depthup.model.cpu_kernels import fast_kernels
from depthup.model.ctc import spell
from depthup.transcribe.decoding import can_draft, decode, is_greedy
from depthup.transcribe.options import Options, Partial, default_batch_seconds
from depthup.transcribe.transcript import Segment

log = logging.getLogger("depthup")
T = TypeVar("T")

BATCHES_IN_GROUP = 8
"""Batches that are read together, so that each may hold clips of like length."""
ANSWER_TOKENS = 256
"""Most tokens of an answer to an instruction, which may be longer than what was said."""
GUESSED_AT_ONCE = {"cpu": 8}
"""Tokens of a draft that are verified in one pass, by kind of device, all of them on others."""


@contextmanager
def inference(*models: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is back in the mode it was in."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def transcribe_batch(
    model: Any, processor: Any, audio: Sequence[np.ndarray], on_text: Optional[Partial] = None, **options: Any
) -> list[Segment]:
    """Transcribe clips of any mix of lengths, without sampling; batches that the memory cannot hold are halved.

    Args:
        audio: mono waveforms [samples] at the processor's rate.
        on_text: is told the number of a clip and its text so far whenever there is more of it, and answers whether to
            go on with that clip, whose text ends there if not. Beams say nothing before they are through.
        options: fields of `Options`.

    Returns one segment per clip, in the order given, with times from the clip's beginning; its text may be empty.
    """
    chosen = Options(**options)
    seconds = [len(clip) / processor.sampling_rate for clip in audio]
    usual = [ANSWER_TOKENS if chosen.instruction else 16 + math.ceil(12 * length) for length in seconds]
    limits = [chosen.max_new_tokens or limit for limit in usual]
    segments = [Segment(0.0, round(length, 3), "") for length in seconds]
    batches = list(batches_of_like_length(seconds, chosen.batch_seconds or default_batch_seconds(model)))
    with inference(model), fast_kernels(model.device):
        while batches:
            batch = batches[0]
            told = on_text and partial(_told, on_text, batch)
            try:
                # Each clip is cut at its own limit, so that its text does not depend on its neighbours.
                found = _hear(model, processor, [audio[i] for i in batch], [limits[i] for i in batch], told, chosen)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                log.warning("%d clips at once are too much for the memory: going on with half as many", len(batch))
                batches = [half for b in batches for half in (b[: len(b) // 2], b[len(b) // 2 :]) if half]
                continue
            for i, text in zip(batches.pop(0), found, strict=True):
                segments[i].text = text.strip()
    return segments


def _told(on_text: Partial, batch: Sequence[int], row: int, text: str) -> bool:
    return on_text(batch[row], text)


def _hear(
    model: Any,
    processor: Any,
    clips: list[np.ndarray],
    limits: list[int],
    on_text: Optional[Partial],
    options: Options,
) -> list[str]:
    """The texts of one batch."""
    prompts = processor.prompt_batch(clips, device=str(model.device), instruction=options.instruction)
    inputs = {k: v.to(model.device) for k, v in prompts.items()}
    if options.num_beams == 1 and is_greedy(model):
        # On a CPU a pass costs as much as its tokens, and waits for the row with the worst guess.
        wanted = options.drafts if options.drafts is not None else len(clips) == 1 or model.device.type != "cpu"
        drafts = wanted and options.instruction is None and can_draft(model)  # a CTC head knows transcripts alone
        guess = partial(_guesses, processor) if drafts else None
        at_once = GUESSED_AT_ONCE.get(model.device.type)
        watch = on_text and partial(_spoken, processor, on_text)
        kept = decode(model, inputs, limits, guess, processor.word_starts, at_once, watch).tokens
        return processor.tokenizer.batch_decode(kept, skip_special_tokens=True)
    ids = model.generate(**inputs, max_new_tokens=max(limits), do_sample=False, num_beams=options.num_beams)
    new = ids[:, inputs["input_ids"].shape[1] :].tolist()
    kept = [row[:limit] for row, limit in zip(new, limits, strict=True)]
    texts = processor.tokenizer.batch_decode(kept, skip_special_tokens=True)
    if on_text is not None:
        for row, text in enumerate(texts):
            on_text(row, text.strip())
    return texts


def _spoken(processor: Any, on_text: Partial, row: int, tokens: list[int]) -> bool:
    """Tell the text of an answer's first tokens, without the part of a character that they may end in."""
    return on_text(row, processor.tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd").strip())


def _guesses(processor: Any, log_probs: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    """Tokens of what the CTC head spells."""
    return [processor.answer_ids(text) if text else [] for text in spell(log_probs, lengths)]


def batches_of_like_length(seconds: Sequence[float], batch_seconds: float) -> Iterator[list[int]]:
    """Indices of clips of like length, longest first, so that a batch too large for the memory shows at once."""
    batch: list[int] = []
    for i in sorted(range(len(seconds)), key=lambda i: -seconds[i]):
        if batch and seconds[batch[0]] * (len(batch) + 1) > batch_seconds:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def in_groups(items: Iterable[T], duration: Callable[[T], float], batch_seconds: float) -> Iterator[list[T]]:
    """Items in order, together as many as fill a few batches, so that few of them are held at a time."""
    group: list[T] = []
    held = 0.0
    for item in items:
        group.append(item)
        held += duration(item)
        if held >= BATCHES_IN_GROUP * batch_seconds:
            yield group
            group, held = [], 0.0
    if group:
        yield group


def ahead(groups: Iterator[T]) -> Iterator[T]:
    """The same; while one of them is worked on, a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, groups, None)
        while (group := following.result()) is not None:
            following = thread.submit(next, groups, None)
            yield group
