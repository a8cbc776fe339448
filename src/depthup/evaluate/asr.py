"""Speech recognition: WER and CER with Whisper's normalisers, by group, with bootstrap intervals."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

import jiwer
import numpy as np
from lhotse.cut import Cut
from rich.console import Console
from rich.progress import Progress
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer
from whisper_normalizer.english import EnglishSpellingNormalizer

from depthup.config import DataConfig
from depthup.data import BadAudio, load_cuts, read_audio
from depthup.errors import UserError
from depthup.transcribe.batches import ahead, in_groups
from depthup.transcribe.options import MAX_SECONDS, default_batch_seconds
from depthup.transcribe.recordings import transcribe_recordings

log = logging.getLogger("depthup")

USUAL_FIELDS = ("speaker", "language")
BOOTSTRAP_BLOCK = 4_000_000


@dataclass
class GroupScore:
    """WER of the clips that share one value of a field, [low, high] its interval; of one clip it has no width."""

    wer: float
    interval: list[float]
    words: int
    clips: int


@dataclass
class FieldScore:
    """WER by value of one field, and how far the best and the worst value lie apart."""

    gap: float
    best: str
    worst: str
    values: dict[str, GroupScore]


@dataclass
class Example:
    """One clip as it was said and as it was heard, not normalised."""

    id: str
    reference: str
    hypothesis: str


@dataclass
class AsrReport:
    """Error rates as fractions over the corpus, counts in words, and [low, high] of a 95 % interval of the WER."""

    wer: float
    cer: float
    interval: list[float]
    substitutions: int
    deletions: int
    insertions: int
    reference_words: int
    clips: int
    empty_references: int = 0
    """Clips left out because their reference normalises to nothing."""
    skipped: int = 0
    """Clips left out because their audio cannot be used."""
    groups: dict[str, FieldScore] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `counts.skipped` holds every clip left out, for whichever reason."""
        names = ("substitutions", "deletions", "insertions", "reference_words", "clips")
        return {
            "wer": self.wer,
            "cer": self.cer,
            "counts": {name: getattr(self, name) for name in names} | {"skipped": self.skipped + self.empty_references},
            "interval": self.interval,
            "groups": {name: asdict(score) for name, score in self.groups.items()},
            "examples": [asdict(example) for example in self.examples],
        }


@lru_cache
def normalizer(language: str) -> BasicTextNormalizer | EnglishTextNormalizer:
    """Whisper's normaliser for a language (code or English name); languages without spaces are scored by character."""
    code = language.lower().replace("_", "-").split("-")[0]
    if code in ("en", "eng", "english"):
        # OpenAI's list of spellings, and transformers' rules: whisper_normalizer added some of its own.
        return EnglishTextNormalizer(EnglishSpellingNormalizer().mapping)
    return BasicTextNormalizer(
        split_letters=code in ("zh", "yue", "ja", "th", "lo", "my", "chinese", "japanese", "thai")
    )


def score(
    references: Sequence[str],
    hypotheses: Sequence[str],
    groups: Mapping[str, Sequence[str | None]] | None = None,
    language: str | Sequence[str] = "en",
    seed: int = 0,
    resamples: int = 1000,
) -> AsrReport:
    """Corpus WER and CER after normalisation, with a bootstrap interval over utterances.

    `groups` gives for each field the value of each utterance (None leaves it out of that field), `language` one
    language for all or one each. References that normalise to nothing are left out and counted. Raises UserError if
    none is left.
    """
    languages = [language] * len(references) if isinstance(language, str) else language
    clean = [
        (normalizer(lang)(reference).strip(), normalizer(lang)(hypothesis).strip())
        for reference, hypothesis, lang in zip(references, hypotheses, languages, strict=True)
    ]
    # Of dots alone the normaliser leaves one, which is no word either.
    kept = [i for i, (reference, _) in enumerate(clean) if any(map(str.isalnum, reference))]
    if not kept:
        raise UserError("no reference has a word left after normalisation, nothing to score; check data.text_field")
    reference, hypothesis = [clean[i][0] for i in kept], [clean[i][1] for i in kept]
    counts = np.array([_counts(chunks) for chunks in jiwer.process_words(reference, hypothesis).alignments])
    words = np.array([len(text.split()) for text in reference])
    errors = counts.sum(axis=1)
    rng = np.random.default_rng(seed)
    substitutions, deletions, insertions = counts.sum(axis=0).tolist()
    return AsrReport(
        wer=float(errors.sum() / words.sum()),
        cer=float(jiwer.process_characters(reference, hypothesis).cer),
        interval=_interval(errors, words, rng, resamples),
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        reference_words=int(words.sum()),
        clips=len(kept),
        empty_references=len(clean) - len(kept),
        groups={
            name: by_value
            for name, values in (groups or {}).items()
            if (by_value := _by_value([values[i] for i in kept], errors, words, rng, resamples))
        },
    )


def _counts(chunks: Iterable[jiwer.AlignmentChunk]) -> tuple[int, int, int]:
    """Substitutions, deletions and insertions of one utterance."""
    count = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
    for chunk in chunks:
        # An insertion has no length in the reference, every other edit its own.
        count[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
    return count["substitute"], count["delete"], count["insert"]


def _interval(errors: np.ndarray, words: np.ndarray, rng: np.random.Generator, resamples: int) -> list[float]:
    """The middle 95 % of the WERs of `resamples` corpora drawn from these utterances with replacement."""
    rows = max(1, BOOTSTRAP_BLOCK // len(words))
    rates = []
    for first in range(0, resamples, rows):
        drawn = rng.integers(len(words), size=(min(rows, resamples - first), len(words)))
        rates.append(errors[drawn].sum(axis=1) / words[drawn].sum(axis=1))
    return np.percentile(np.concatenate(rates), [2.5, 97.5]).tolist()


def _by_value(
    values: Sequence[str | None], errors: np.ndarray, words: np.ndarray, rng: np.random.Generator, resamples: int
) -> FieldScore | None:
    members: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        if value is not None:
            members.setdefault(value, []).append(i)
    if not members:
        return None
    scores = {
        value: GroupScore(
            wer=float(errors[rows].sum() / words[rows].sum()),
            interval=_interval(errors[rows], words[rows], rng, resamples),
            words=int(words[rows].sum()),
            clips=len(rows),
        )
        for value, rows in sorted(members.items())
    }
    best, worst = min(scores, key=lambda v: scores[v].wer), max(scores, key=lambda v: scores[v].wer)
    return FieldScore(gap=scores[worst].wer - scores[best].wer, best=best, worst=worst, values=scores)


def evaluate_asr(
    model: Any,
    processor: Any,
    source: str,
    data: DataConfig,
    by: Sequence[str] = ("speaker",),
    limit: int | None = None,
    batch_seconds: float | None = None,
) -> AsrReport:
    """Transcribe the clips of `source` (at most `limit`) and score them, by speaker, language and the fields `by`.

    Clips longer than 28 s and `data.max_duration` are cut in pauses. A bad clip is named in the log, counted and left
    out, or with `data.strict` raised. Raises UserError if no clip can be used or no clip has a field of `by`.
    """
    examples: list[Example] = []
    fields: list[dict[str, str]] = []
    skipped = 0
    longest = max(MAX_SECONDS, data.max_duration)
    clips = ((cut, _read(cut, processor, data)) for cut in islice(load_cuts(source, data), limit))
    groups = in_groups(clips, lambda clip: clip[0].duration, batch_seconds or default_batch_seconds(model))
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("transcribing", total=limit)
        for group in ahead(groups):
            found = [_fields(cut) for cut, _ in group]
            if not examples and not skipped:
                _check_fields(by, found, source)
            audio = {i: samples for i, (_, samples) in enumerate(group) if samples is not None}
            skipped += len(group) - len(audio)
            recordings = list(audio.values())
            heard = transcribe_recordings(
                model, processor, recordings, max_seconds=longest, batch_seconds=batch_seconds, vad="none"
            )
            for i, transcript in zip(audio, heard, strict=True):
                cut = group[i][0]
                examples.append(Example(cut.id, cut.supervisions[0].text or "", transcript.text))
                fields.append(found[i])
            progress.advance(task, len(group))
    if skipped and not examples:
        raise UserError(f"{source}: all {skipped} clips are unusable, as the lines above say; check the manifest")
    report = score(
        [example.reference for example in examples],
        [example.hypothesis for example in examples],
        {name: [values.get(name) for values in fields] for name in dict.fromkeys([*USUAL_FIELDS, *by])},
        [values.get("language", "en") for values in fields],
    )
    report.skipped, report.examples = skipped, examples
    return report


def _fields(cut: Cut) -> dict[str, str]:
    """What a clip can be grouped by: the simple values of its manifest line."""
    told = cut.supervisions[0]
    known = {"speaker": told.speaker, "language": told.language, "gender": told.gender}
    known |= (getattr(cut, "custom", None) or {}) | (told.custom or {})
    return {name: str(value) for name, value in known.items() if isinstance(value, (str, int, float))}


def _check_fields(by: Sequence[str], found: Sequence[dict[str, str]], source: str) -> None:
    known = set().union(*found)
    for name in by:
        if name not in known and name not in USUAL_FIELDS:
            there = ", ".join(sorted(known)) or "none"
            raise UserError(f"{source}: no field `{name}` in its first {len(found)} clips; fields there: {there}")


def _read(cut: Cut, processor: Any, data: DataConfig) -> np.ndarray | None:
    try:
        return read_audio(cut, processor.sampling_rate)
    except BadAudio as error:
        if data.strict:
            raise
        log.warning("skipped: %s", error)
        return None
