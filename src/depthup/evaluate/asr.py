"""Speech recognition on a data set: every clip transcribed, scored by the rules of its language, and by group."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse.cut import Cut

from depthup.config import DataConfig
from depthup.data import BadAudio, load_cuts
from depthup.data.audio import audio_file
from depthup.data.cuts import check_rows, fields_of, load_sources
from depthup.data.tokens import is_tokens, read_speech
from depthup.data.transcripts import prompt_of
from depthup.errors import UserError
from depthup.evaluate.language import DEFAULT, rules, rules_or_default, written_language
from depthup.evaluate.scores import SPEAKER, AsrReport, Heard, LanguageScore, score
from depthup.progress import ClipProgress
from depthup.transcribe.batches import ahead, in_groups
from depthup.transcribe.hearing import transcribe_batch
from depthup.transcribe.options import MAX_SECONDS, default_batch_seconds
from depthup.transcribe.recordings import transcribe_recordings

log = logging.getLogger("depthup")

LOOKED_AT = 100
"""Clips in which a field of `by` must be found."""
USUAL_FIELDS = (SPEAKER, "language")


def evaluate_asr(
    model: Any,
    processor: Any,
    source: str,
    data: DataConfig,
    by: Sequence[str] = (SPEAKER,),
    limit: int | None = None,
    batch_seconds: float | None = None,
    keep_audio: Path | None = None,
) -> AsrReport:
    """Transcribe the clips of `source` (at most `limit`) and score them, by speaker, language and the fields `by`.

    Clips longer than 28 s and `data.max_duration` are cut in pauses. A bad clip is named in the log, counted and left
    out, or with `data.strict` raised. In `keep_audio` clips are kept as FLAC which are in no file of their own.

    Raises UserError if no clip can be used, or no clip has a field of `by`.
    """
    cuts = load_cuts(source, data, texts="any")
    clips = ((cut, _read(cut, processor, data)) for cut in islice(cuts, limit))
    groups = in_groups(clips, lambda clip: clip[0].duration, batch_seconds or default_batch_seconds(model))
    heard: list[Heard] = []
    unusable: list[tuple[str, str]] = []
    total = min(filter(None, (limit, _num_clips(cuts))), default=None)
    with ClipProgress(total, f"{source}: heard ") as progress:
        for group in ahead(groups):
            if not heard and not unusable:
                _check_fields(by, [fields_of(cut) for cut, _ in group], source)
            unusable += [(cut.id, told) for cut, told in group if isinstance(told, str)]
            usable = [(cut, told) for cut, told in group if not isinstance(told, str)]
            heard += _hear(model, processor, usable, data, batch_seconds, len(heard), keep_audio)
            progress.did(len(group), sum(cut.duration for cut, _ in usable))
    if unusable and not heard:
        raise UserError(f"{source}: all {len(unusable)} clips are unusable, as the lines above say; check the manifest")
    report = _score(heard, by, data, source, written_language(model))
    report.skipped, report.examples, report.unusable = len(unusable), heard, unusable
    return report


def check_source(source: str, data: DataConfig, by: Sequence[str] = ()) -> None:
    """Find what would stop `evaluate_asr` before it begins: every row is looked at, no recording. Raises UserError."""
    if data.language is not None:
        rules(data.language)
    cuts = load_sources(source, data, "any")
    check_rows(cuts)
    _check_fields(by, [fields_of(cut) for cut in islice(cuts, LOOKED_AT)], source)


def _hear(
    model: Any,
    processor: Any,
    clips: Sequence[tuple[Cut, np.ndarray]],
    data: DataConfig,
    batch_seconds: float | None,
    number: int,
    keep_audio: Path | None,
) -> list[Heard]:
    """The texts of some clips, of which the first is that of this number."""
    texts = _texts(model, processor, clips, data, batch_seconds)
    found = []
    for place, ((cut, samples), text) in enumerate(zip(clips, texts, strict=True)):
        file, start = audio_file(cut), getattr(cut, "start", 0.0)
        if file is None and keep_audio is not None and not is_tokens(samples):
            file, start = keep_audio / f"{number + place:06d}.flac", 0.0
            keep_audio.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, samples, processor.sampling_rate)
        audio = None if file is None else str(file)
        said = cut.supervisions[0].text or ""
        found.append(Heard(cut.id, audio, start, cut.duration, fields_of(cut), said, text))
    return found


def _texts(
    model: Any,
    processor: Any,
    clips: Sequence[tuple[Cut, np.ndarray]],
    data: DataConfig,
    batch_seconds: float | None,
) -> list[str]:
    """What is said in each clip, or answered to its own prompt; tokens, in which no pause is seen, are heard whole."""
    prompts = [prompt_of(cut) for cut, _ in clips]
    asked = {i: prompt for i, prompt in enumerate(prompts) if prompt is not None}
    speech = [samples for (_, samples), prompt in zip(clips, prompts, strict=True) if prompt is None]
    if speech and is_tokens(speech[0]):
        said = [segment.text for segment in transcribe_batch(model, processor, speech, batch_seconds=batch_seconds)]
    else:
        longest = max(MAX_SECONDS, data.max_duration)
        options: dict[str, Any] = {"max_seconds": longest, "batch_seconds": batch_seconds, "vad": "none"}
        said = [transcript.text for transcript in transcribe_recordings(model, processor, speech, **options)]
    if not asked:
        return said
    audio, own = [clips[i][1] for i in asked], list(asked.values())
    answers = iter(transcribe_batch(model, processor, audio, prompts=own, batch_seconds=batch_seconds))
    transcripts = iter(said)
    return [next(answers).text if i in asked else next(transcripts) for i in range(len(clips))]


def _score(heard: Sequence[Heard], by: Sequence[str], data: DataConfig, source: str, written: str | None) -> AsrReport:
    """Clips that name no language go by `data.language`, else by what the model writes, else by English."""
    report = score(
        [clip.reference for clip in heard],
        [clip.hypothesis for clip in heard],
        {name: [clip.fields.get(name) for clip in heard] for name in dict.fromkeys([*USUAL_FIELDS, *by])},
        [clip.fields.get("language") for clip in heard],
        data.language or written,
    )
    if written and not data.language:
        unnamed = sum(rules_or_default(clip.fields.get("language"), None)[1] for clip in heard)
        report.languages.get(rules(written).code, LanguageScore(0, "", "", 0)).of_model = unnamed
    for clip, edits in zip(heard, report.edits, strict=True):
        clip.edits = edits
    if assumed := sum(how.assumed for how in report.languages.values()):
        log.warning(
            "%s: %d of %d clips name no language that is known and are scored by the rules of %s; say --language CODE "
            "(in recipes data.language), or give each clip its `language`",
            *(source, assumed, report.clips, DEFAULT),
        )
    return report


def _num_clips(cuts: Any) -> int | None:
    counted = getattr(getattr(cuts, "data", None), "num_clips", None)
    return counted() if counted else None


def _check_fields(by: Sequence[str], found: Sequence[dict[str, str]], source: str) -> None:
    known = set().union(*found)
    for name in by:
        if name not in known and name not in USUAL_FIELDS:
            there = ", ".join(sorted(known)) or "none"
            raise UserError(f"{source}: no field `{name}` in its first {len(found)} clips; fields there: {there}")


def _read(cut: Cut, processor: Any, data: DataConfig) -> np.ndarray | str:
    """A clip's samples, or the line that says why there are none."""
    try:
        if prompt_of(cut) and cut.duration > processor.longest_seconds:
            at_once = f"{processor.longest_seconds:g} s can be heard at once"
            raise BadAudio(f"{cut.id}: lasts {cut.duration:.1f} s; its prompt is about all of it, and {at_once}")
        return read_speech(cut, processor)
    except BadAudio as error:
        if data.strict:
            raise
        log.warning("skipped: %s", error)
        return str(error)
