"""Clips in, segments out: batches of any mix of lengths, each through the LLM at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Optional, Union

import numpy as np
import torch

from depthup.errors import UserError
from depthup.model.connectors import Speech
from depthup.model.cpu_kernels import fast_kernels
from depthup.transcribe.batches import batches_of_like_length, inference
from depthup.transcribe.decoding import can_draft, decode, is_greedy
from depthup.transcribe.guard import Heard, heard_in, judged
from depthup.transcribe.hotwords import with_hotwords
from depthup.transcribe.options import Options, Partial, default_batch_seconds
from depthup.transcribe.transcript import Segment

log = logging.getLogger("depthup")

ANSWER_TOKENS = 256
"""Most tokens of an answer to an instruction, which may be longer than what was said."""
GUESSED_AT_ONCE = {"cpu": 8}
"""Tokens of a draft that are verified in one pass, by kind of device, all of them on others."""


def transcribe_batch(
    model: Any,
    processor: Any,
    audio: Sequence[np.ndarray],
    on_text: Optional[Partial] = None,
    prompts: Optional[Sequence[str]] = None,
    **options: Any,
) -> list[Segment]:
    """Transcribe clips of any mix of lengths, without sampling; batches that the memory cannot hold are halved.

    Args:
        audio: mono waveforms [samples] at the processor's rate, or speech tokens [T, streams].
        on_text: is told the number of a clip and its text so far whenever there is more of it, and answers whether to
            go on with that clip, whose text ends there if not. Beams say nothing before they are through.
        prompts: one for each clip, with `<|audio|>` in it, in the place of the recipe's.
        options: fields of `Options`.

    Returns one segment per clip, in the order given, with times from the clip's beginning; its text may be empty.
    """
    found = dict(hear(model, processor, audio, Options(**options), on_text, prompts))
    return [found[i] for i in range(len(audio))]


def hear(
    model: Any,
    processor: Any,
    audio: Sequence[np.ndarray],
    options: Options,
    on_text: Optional[Partial] = None,
    prompts: Optional[Sequence[str]] = None,
) -> Iterator[tuple[int, Segment]]:
    """As `transcribe_batch`, each segment with the number of its clip, batch by batch, long clips first."""
    if prompts:
        options = replace(options, prompt=prompts[0])  # one tells as well as all that no transcript is asked for
    refuse_what_cannot_act(model, processor, options)
    seconds = [processor.seconds(clip) for clip in audio]
    batches = list(batches_of_like_length(seconds, options.batch_seconds or default_batch_seconds(model)))
    while batches:
        batch = batches[0]
        told = on_text and partial(_told, on_text, batch)
        try:
            with inference(model), fast_kernels(model.device):
                asked = [prompts[i] for i in batch] if prompts else options.prompt
                found = _hear(model, processor, [audio[i] for i in batch], told, options, asked)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            log.warning("%d clips at once are too much for the memory: going on with half as many", len(batch))
            batches = [half for b in batches for half in (b[: len(b) // 2], b[len(b) // 2 :]) if half]
            continue
        yield from zip(batches.pop(0), found, strict=True)


def refuse_what_cannot_act(model: Any, processor: Any, options: Options) -> None:
    """Raise UserError, which names the option, for one that this model cannot follow."""
    if options.hotwords and (model.ctc_head is None or options.asks):
        raise UserError("hotwords: need a CTC head, which this checkpoint lacks, and no instruction; use a prompt")
    if options.fallback == "ctc" and model.ctc_head is None:
        raise UserError("fallback ctc: needs a CTC head, which this checkpoint lacks")
    if options.fallback == "draft" and not model.reads_draft:
        raise UserError("fallback draft: needs a front end that reads a draft to the LLM (connector.name draft)")
    if options.language is not None:
        processor.languages(options.language, 1)


def _told(on_text: Partial, batch: Sequence[int], row: int, text: str) -> bool:
    return on_text(batch[row], text)


def _hear(
    model: Any,
    processor: Any,
    clips: list[np.ndarray],
    on_text: Optional[Partial],
    options: Options,
    prompt: Union[str, Sequence[str], None],
) -> list[Segment]:
    """The segments of one batch."""
    prompts = processor.prompt_batch(clips, str(model.device), options.instruction, prompt, options.language)
    inputs = {k: v.to(model.device) for k, v in prompts.items()}
    seconds = [processor.seconds(clip) for clip in clips]
    # Each clip is cut at its own limit, so that its text does not depend on its neighbours.
    usual = [ANSWER_TOKENS if options.asks else model.config.answer_tokens(length) for length in seconds]
    limits = [options.max_new_tokens or limit for limit in usual]
    if options.num_beams == 1 and is_greedy(model):
        heard = _greedy(model, processor, inputs, limits, on_text, options)
    else:
        heard = _beams(model, processor, inputs, limits, on_text, options)
    rate = model.ctc_rate if model.ctc_head is not None else 0.0
    if options.hotwords:
        for clip, one in zip(clips, heard, strict=True):
            _with_hotwords(model, processor, clip, one, options)
    return [judged(one, length, rate, options) for one, length in zip(heard, seconds, strict=True)]


def _with_hotwords(model: Any, processor: Any, clip: np.ndarray, heard: Heard, options: Options) -> None:
    if heard.text and heard.spelled is not None and heard.log_probs is not None:
        by = _by_decoder if model.encoder.kind.writer is not None else _by_llm
        weigh = partial(by, model, processor, clip, options)
        found = heard.text, heard.spelled, heard.log_probs, 1 / model.ctc_rate
        heard.text = with_hotwords(*found, options.hotwords, weigh)


def _by_decoder(
    model: Any, processor: Any, clip: np.ndarray, options: Options, texts: Sequence[str]
) -> Sequence[float]:
    """Log probability that the encoder's own decoder gives to each text of a clip.

    Its draft is what the LLM was read, and the LLM would take no other text for likely.
    """
    inputs = processor(audio=[clip], language=options.language).to(model.device)
    languages = inputs.get("input_languages")
    return model.likelihoods(inputs["input_features"], inputs["input_lengths"], texts, languages).tolist()


def _by_llm(model: Any, processor: Any, clip: np.ndarray, options: Options, texts: Sequence[str]) -> Sequence[float]:
    """The LLM's log probability of each text of a clip, its end included."""
    scores = []
    for text in texts:
        inputs = processor.training_batch([clip], [text])
        inputs = {k: v.to(model.device) for k, v in inputs.items() if not k.startswith("ctc")}
        scores.append(-float(model(**inputs).loss) * int((inputs["labels"] >= 0).sum()))
    return scores


def _greedy(
    model: Any,
    processor: Any,
    inputs: dict[str, torch.Tensor],
    limits: list[int],
    on_text: Optional[Partial],
    options: Options,
) -> list[Heard]:
    # On a CPU a pass costs as much as its tokens, and waits for the row with the worst guess.
    wanted = options.drafts if options.drafts is not None else len(limits) == 1 or model.device.type != "cpu"
    drafts = wanted and not options.asks and can_draft(model)  # a front end knows transcripts alone
    guess = partial(_guesses, processor) if drafts else None
    at_once = GUESSED_AT_ONCE.get(model.device.type)
    watch = on_text and partial(_spoken, processor, on_text)
    with_ctc = model.ctc_head is not None and not options.asks
    found = decode(model, inputs, limits, guess, processor.word_starts, at_once, watch, with_ctc)
    return _heard(processor, found.tokens, None if options.asks else found.speech, found.scores)


def _beams(
    model: Any,
    processor: Any,
    inputs: dict[str, torch.Tensor],
    limits: list[int],
    on_text: Optional[Partial],
    options: Options,
) -> list[Heard]:
    """By `generate`, which knows beams and whatever changes logits."""
    ids = model.generate(**inputs, max_new_tokens=max(limits), do_sample=False, num_beams=options.num_beams)
    new = ids[:, inputs["input_ids"].shape[1] :].tolist()
    speech = None
    if not options.asks and model.makes_out:
        speech = model.hear(**inputs, with_ctc=True).speech
    heard = _heard(processor, [row[:limit] for row, limit in zip(new, limits, strict=True)], speech)
    if on_text is not None:
        for row, one in enumerate(heard):
            on_text(row, one.text)
    return heard


def _heard(
    processor: Any,
    tokens: list[list[int]],
    speech: Optional[Speech],
    scores: Optional[list[list[float]]] = None,
) -> list[Heard]:
    heard = heard_in(speech) if speech is not None else [Heard() for _ in tokens]
    texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    for row, (one, text) in enumerate(zip(heard, texts, strict=True)):
        one.text, one.scores = text.strip(), scores[row] if scores else None
    return heard


def _spoken(processor: Any, on_text: Partial, row: int, tokens: list[int]) -> bool:
    """Tell the text of an answer's first tokens, without the part of a character that they may end in."""
    return on_text(row, processor.tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd").strip())


def _guesses(processor: Any, speech: Speech) -> list[list[int]]:
    """Tokens of what the front end makes out by itself."""
    return [processor.answer_ids(text) if text else [] for text in speech.made_out()]
