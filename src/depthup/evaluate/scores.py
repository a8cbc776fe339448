"""Error rates of texts: WER and CER of a corpus, counts of each clip, intervals, groups and the gap between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import jiwer
import numpy as np

from depthup.errors import UserError
from depthup.evaluate.language import Rules, rules_or_default

BLOCK = 4_000_000
"""Draws of a bootstrap that are held at a time."""
SPEAKER = "speaker"
"""The field whose values intervals are drawn over: clips of one speaker err alike."""


@dataclass
class Edits:
    """Of one clip: what was said and heard, normalised, and the words (characters) wrong in it."""

    reference: str
    hypothesis: str
    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


@dataclass
class Heard:
    """One clip of a data set as it was said and as it was heard, not normalised."""

    id: str
    audio: str | None
    """Where it can be listened to, from second `start` for `duration` seconds."""
    start: float
    duration: float
    fields: dict[str, str]
    reference: str
    hypothesis: str
    edits: Edits | None = None


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
class LanguageScore:
    """How the clips of one language were compared."""

    clips: int
    normalizer: str
    unit: str
    """What errors are counted in: `word`, or `character` where the script has no spaces."""
    assumed: int
    """Clips that named no language, where none was asked for either."""
    of_model: int = 0
    """Clips that named no language, where the model's own is known (`encoder.language`)."""


@dataclass
class AsrReport:
    """Error rates as fractions over the corpus, counts in words, and [low, high] of a 95 % interval of the WER.

    Rates are NaN where no word was said at all; `insertions` then count what was written nevertheless.
    """

    wer: float
    cer: float
    interval: list[float]
    substitutions: int
    deletions: int
    insertions: int
    reference_words: int
    clips: int
    interval_over: str = "clips"
    """What the interval is drawn over: `speakers` where each has several clips, which are not independent."""
    empty_references: int = 0
    """Clips in which nothing was said: all that is heard in them is inserted."""
    empty_insertions: int = 0
    """Words that were written for those."""
    skipped: int = 0
    """Clips left out because their audio cannot be used."""
    languages: dict[str, LanguageScore] = field(default_factory=dict)
    groups: dict[str, FieldScore] = field(default_factory=dict)
    edits: list[Edits] = field(default_factory=list)
    """Of each clip."""
    examples: list[Heard] = field(default_factory=list)
    """Every clip, where a data set was heard."""
    unusable: list[tuple[str, str]] = field(default_factory=list)
    """Clips whose audio cannot be used, each with the line that says why."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the clips; null for a rate that is not defined."""
        counts = ["substitutions", "deletions", "insertions", "reference_words", "clips", "skipped"]
        counts += ["empty_references", "empty_insertions"]
        return {
            "wer": _defined(self.wer),
            "cer": _defined(self.cer),
            "counts": {name: getattr(self, name) for name in counts},
            "interval": [_defined(bound) for bound in self.interval],
            "interval_over": self.interval_over,
            "languages": {code: asdict(how) for code, how in self.languages.items()},
            "groups": {name: asdict(score) for name, score in self.groups.items()},
        }


def score(
    references: Sequence[str],
    hypotheses: Sequence[str],
    groups: Mapping[str, Sequence[str | None]] | None = None,
    language: str | None | Sequence[str | None] = "en",
    default_language: str | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> AsrReport:
    """Corpus WER and CER after normalisation, with a bootstrap interval.

    `groups` gives for each field the value of each utterance (None leaves it out of that field), `language` one
    language for all or one each; where it is None or not known, `default_language`, or English, which is then called
    assumed. The interval is drawn over the values of `speaker` where each clip has one and some have several clips.

    Raises UserError without any utterance.
    """
    if not len(references):
        raise UserError("no clip to score; check the manifest")
    named = [language] * len(references) if isinstance(language, str) or language is None else language
    by = [rules_or_default(name, default_language) for name in named]
    edits = [_edits(said, heard, how) for said, heard, (how, _) in zip(references, hypotheses, by, strict=True)]
    counts = np.array([[one.substitutions, one.deletions, one.insertions] for one in edits])
    words, errors = np.array([one.words for one in edits]), counts.sum(axis=1)
    fields = dict(groups or {})
    draw = Draw(fields.get(SPEAKER), np.random.default_rng(seed), resamples)
    interval, over = draw.interval(errors, words, np.arange(len(edits)))
    substitutions, deletions, insertions = counts.sum(axis=0).tolist()
    return AsrReport(
        wer=_rate(errors.sum(), words.sum()),
        cer=_cer(edits, [how for how, _ in by]),
        interval=interval,
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        reference_words=int(words.sum()),
        clips=len(edits),
        interval_over=over,
        empty_references=int((words == 0).sum()),
        empty_insertions=int(errors[words == 0].sum()),
        languages=_languages(by),
        groups={name: told for name, values in fields.items() if (told := _by_value(values, errors, words, draw))},
        edits=edits,
    )


def _edits(reference: str, hypothesis: str, how: Rules) -> Edits:
    said, heard = how.normalize(reference), how.normalize(hypothesis)
    if not said:  # jiwer refuses it
        return Edits(said, heard, 0, 0, len(heard.split()), 0)
    count = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
    for chunk in jiwer.process_words(said, heard).alignments[0]:
        # An insertion has no length in the reference, every other edit its own.
        count[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
    return Edits(said, heard, count["substitute"], count["delete"], count["insert"], len(said.split()))


def _cer(edits: Sequence[Edits], by: Sequence[Rules]) -> float:
    wrong = total = 0
    for one, how in zip(edits, by, strict=True):
        said, heard = how.characters(one.reference), how.characters(one.hypothesis)
        total += len(said)
        if said:
            found = jiwer.process_characters(said, heard)
            wrong += found.substitutions + found.deletions + found.insertions
        else:
            wrong += len(heard)
    return _rate(wrong, total)


def _languages(by: Iterable[tuple[Rules, bool]]) -> dict[str, LanguageScore]:
    found: dict[str, LanguageScore] = {}
    for how, assumed in by:
        unit = "character" if how.by_character else "word"
        told = found.setdefault(how.code, LanguageScore(0, how.normalizer, unit, 0))
        told.clips += 1
        told.assumed += assumed
    return found


class Draw:
    """Bootstrap intervals, over speakers where they are known and fewer than the clips."""

    def __init__(self, speakers: Sequence[str | None] | None, rng: np.random.Generator, resamples: int) -> None:
        known = [speaker for speaker in speakers or () if speaker is not None]
        complete = speakers is not None and len(known) == len(speakers)
        self.speakers = np.unique(np.array(known, str), return_inverse=True)[1] if complete else None
        self.rng, self.resamples = rng, resamples

    def interval(self, errors: np.ndarray, words: np.ndarray, rows: np.ndarray) -> tuple[list[float], str]:
        """The middle 95 % of the WERs of corpora drawn from the clips `rows` with replacement, and what was drawn."""
        errors, words = errors[rows], words[rows]
        over = "clips"
        if self.speakers is not None:
            speakers = np.unique(self.speakers[rows], return_inverse=True)[1]
            if 1 < speakers.max() + 1 < len(rows):
                errors, words, over = np.bincount(speakers, errors), np.bincount(speakers, words), "speakers"
        drawn_at_once = max(1, BLOCK // len(words))
        rates: list[np.ndarray] = []
        for first in range(0, self.resamples, drawn_at_once):
            size = (min(drawn_at_once, self.resamples - first), len(words))
            drawn = self.rng.integers(len(words), size=size)
            said = words[drawn].sum(axis=1)
            rates.append(errors[drawn].sum(axis=1)[said > 0] / said[said > 0])
        found = np.concatenate(rates)
        return (np.percentile(found, [2.5, 97.5]).tolist() if len(found) else [math.nan, math.nan]), over


def _by_value(values: Sequence[str | None], errors: np.ndarray, words: np.ndarray, draw: Draw) -> FieldScore | None:
    members: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        if value is not None:
            members.setdefault(value, []).append(i)
    scores = {
        value: GroupScore(
            wer=float(errors[rows].sum() / words[rows].sum()),
            interval=draw.interval(errors, words, np.array(rows))[0],
            words=int(words[rows].sum()),
            clips=len(rows),
        )
        for value, rows in sorted(members.items())
        if words[rows].sum()
    }
    if not scores:
        return None
    best, worst = min(scores, key=lambda v: scores[v].wer), max(scores, key=lambda v: scores[v].wer)
    return FieldScore(gap=scores[worst].wer - scores[best].wer, best=best, worst=worst, values=scores)


def _rate(errors: int, of: int) -> float:
    return float(errors / of) if of else math.nan


def _defined(rate: float) -> float | None:
    return None if math.isnan(rate) else rate
