"""Instructions from speech: does the model answer a recording as its base answers the written transcript?"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lhotse.cut import Cut

from depthup.config import DataConfig
from depthup.data import BadAudio, load_cuts
from depthup.data.tokens import read_speech
from depthup.data.transcripts import prompt_of
from depthup.errors import UserError
from depthup.evaluate.text import kl_divergence
from depthup.model.instruction import Instruction
from depthup.transcribe.batches import ahead, batches_of_like_length, in_groups, inference
from depthup.transcribe.hearing import transcribe_batch
from depthup.transcribe.options import MAX_SECONDS, default_batch_seconds

log = logging.getLogger("depthup")

COMPARED_TOKENS = 64
"""Most tokens of an answer: a base that runs on does so for ever, and agreement is decided long before."""


@dataclass
class Answered:
    """One clip: what was said, the base's answer to it as a text, and the model's to the recording."""

    id: str
    said: str
    base: str
    answer: str


@dataclass
class InstructionReport:
    """How near answers to recordings come to the base's own answers to their written transcripts.

    `match`: share of clips whose answers are the same text. `kl`: KL(base || model) in nats a token along the base's
    answers, its end included, over `tokens` tokens. `skipped`: clips that cannot be heard at once or at all.
    """

    match: float
    kl: float
    clips: int
    tokens: int
    skipped: int = 0
    answers: list[Answered] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the answers."""
        return {name: value for name, value in asdict(self).items() if name != "answers"}


def evaluate_instruction(
    model: Any,
    base: Any,
    processor: Any,
    source: str,
    instruction: Instruction,
    data: DataConfig,
    limit: int | None = None,
    batch_seconds: float | None = None,
) -> InstructionReport:
    """Ask the model about the clips of `source` (at most `limit`), and its `base` about their transcripts.

    Both see the same prompt and write at most 64 tokens, greedily. A clip that cannot be read, or is too long to be
    heard at once, is named in the log, counted and left out. Raises UserError if none is left, or where the base's chat
    template has no place for a recording.
    """
    seconds = batch_seconds or default_batch_seconds(model)
    longest = max(MAX_SECONDS, data.max_duration)
    report, kl = InstructionReport(0.0, 0.0, 0, 0), 0.0
    clips = ((cut, _read(cut, processor, longest, data.strict)) for cut in islice(load_cuts(source, data), limit))
    with inference(model, base):
        for group in ahead(in_groups(clips, lambda clip: clip[0].duration, seconds)):
            heard = [(cut, samples) for cut, samples in group if samples is not None]
            report.skipped += len(group) - len(heard)
            for part in batches_of_like_length([cut.duration for cut, _ in heard], seconds):
                told = _batch(model, base, processor, [heard[i] for i in part], instruction)
                report.answers += told.answers
                report.tokens += told.tokens
                kl += told.kl
    report.clips = len(report.answers)
    if not report.clips:
        raise UserError(f"{source}: no clip can be heard, as the lines above say; check the manifest")
    report.match = sum(one.answer == one.base for one in report.answers) / report.clips
    report.kl = kl / report.tokens
    return report


def _read(cut: Cut, processor: Any, longest: float, strict: bool) -> np.ndarray | None:
    try:
        if prompt_of(cut):
            raise BadAudio(f"{cut.id}: its text answers its own `prompt`, and nobody tells what is said")
        if cut.duration > longest:
            raise BadAudio(f"{cut.id}: lasts {cut.duration:.1f} s, and {longest:g} s can be heard at once")
        return read_speech(cut, processor)
    except BadAudio as error:
        if strict:
            raise
        log.warning("skipped: %s", error)
        return None


def _batch(
    model: Any, base: Any, processor: Any, clips: Sequence[tuple[Cut, np.ndarray]], instruction: Instruction
) -> InstructionReport:
    """Of a few clips; `kl` is the sum over the tokens."""
    said = [str(cut.supervisions[0].text).strip() for cut, _ in clips]
    audio = [samples for _, samples in clips]
    texts = processor([instruction.written(processor.tokenizer, text) for text in said], device=str(base.device))
    expected = _answers(base, _on(base, texts))
    spoken = processor.prompt_batch(audio, device=str(model.device), instruction=instruction)
    logits = zip(_along(base, _on(base, texts), expected), _along(model, _on(model, spoken), expected), strict=True)
    kl = sum(kl_divergence(wanted, found.to(wanted.device)) for wanted, found in logits)
    heard = transcribe_batch(
        model, processor, audio, instruction=instruction, max_new_tokens=COMPARED_TOKENS, batch_seconds=float("inf")
    )
    wanted = [processor.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected]
    answers = [
        Answered(cut.id, text, own, segment.text)
        for (cut, _), text, own, segment in zip(clips, said, wanted, heard, strict=True)
    ]
    return InstructionReport(0.0, kl, len(clips), sum(map(len, expected)), answers=answers)


def _on(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    return {name: value.to(model.device) for name, value in batch.items()}


def _answers(base: Any, inputs: dict[str, torch.Tensor]) -> list[list[int]]:
    """Greedy answers, each with its end where it comes to one."""
    ids = base.generate(**inputs, max_new_tokens=COMPARED_TOKENS, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    ends = base.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    lengths = (next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in ids.tolist())
    return [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]


def _along(model: Any, inputs: dict[str, torch.Tensor], answers: Sequence[list[int]]) -> Iterator[torch.Tensor]:
    """Logits [tokens, V] that the model gives each token of each row's answer, behind its left-padded prompt."""
    rows = [torch.tensor(answer, device=model.device) for answer in answers]
    behind = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    real = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    if "input_features" in inputs:  # speech may take other positions than its placeholders
        heard = model.hear(**inputs)
        embeds, before = heard.inputs_embeds, heard.attention_mask
        answered = torch.cat([embeds, model.get_input_embeddings()(behind).to(embeds.dtype)], 1)
        prompts = {"inputs_embeds": answered, "speech_ids": F.pad(heard.speech_ids, (0, behind.shape[1]))}
    else:
        prompts, before = {"input_ids": torch.cat([inputs["input_ids"], behind], 1)}, inputs["attention_mask"]
    mask = torch.cat([before, real], 1)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    kept = behind.shape[1] + 1
    logits = model(**prompts, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=kept).logits
    return (row[: len(answer)] for row, answer in zip(logits, answers, strict=True))
