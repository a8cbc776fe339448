"""What is to be learnt from: hours, lengths, language, and how transcripts are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

from depthup.config import DataConfig
from depthup.data.cuts import load_sources
from depthup.errors import UserError

LONGEST = 30.0
"""Seconds that a Whisper hears at once."""
STYLED = 0.2
"""A source is written in capitals, or with punctuation, where more than this share of its clips is."""
SENTENCES = "sentences"
"""Transcripts with capitals and punctuation."""


@dataclass
class Corpus:
    """Training recordings, measured, or `hours` of them that are told."""

    hours: float
    sources: list[str] = field(default_factory=list)
    clips: int = 0
    longest: float = LONGEST
    """Seconds of the longest clip that a Whisper hears whole."""
    too_long: int = 0
    """Clips longer than that."""
    speakers: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    """Clips that name each."""
    styles: list[str] = field(default_factory=list)
    """How each source's transcripts are written: `capitals`, `lower case` or `sentences`."""

    @property
    def clip_seconds(self) -> float:
        """Of a usual clip."""
        kept = self.clips - self.too_long
        return self.hours * 3600 / kept if kept else 10.0

    @property
    def language(self) -> Optional[str]:
        """The one that all clips name."""
        return next(iter(self.languages)) if self.languages.total() == self.clips and len(self.languages) == 1 else None

    def told(self) -> str:
        """In a few words."""
        clips = f", {self.clips:,} clips" if self.clips else ""
        size = f"{self.hours:,.{0 if self.hours >= 20 else 1}f} h" if self.hours >= 1 else f"{60 * self.hours:.1f} min"
        return f"{size}{clips}" + (f" of {self.speakers:,} speakers" if self.speakers else "")


def measured(sources: Sequence[str], data: DataConfig) -> Corpus:
    """Go through all clips of the sources once; their audio is not read. Raises UserError."""
    corpus, speakers, seconds, longest = Corpus(0.0, list(sources)), set(), 0.0, 0.0
    for source in sources:
        kinds: Counter[str] = Counter()
        for cut in load_sources(source, data):
            told = cut.supervisions[0]
            corpus.clips += 1
            if cut.duration > LONGEST:
                corpus.too_long += 1
            else:
                seconds, longest = seconds + cut.duration, max(longest, cut.duration)
            speakers.update([told.speaker] if told.speaker else [])
            corpus.languages.update([told.language] if told.language else [])
            kinds[style(told.text or "")] += 1
        corpus.styles.append(_usual(kinds))
    if not seconds:
        raise UserError(f"{', '.join(sources)}: no clip of {LONGEST:.0f} s or less; cut the recordings into utterances")
    corpus.hours, corpus.longest, corpus.speakers = seconds / 3600, longest, len(speakers)
    return corpus


def style(text: str) -> str:
    """How a transcript is written."""
    if text != text.lower():
        return "capitals" if text == text.upper() else SENTENCES
    return SENTENCES if any(mark in text for mark in ".,?!;") else "lower case"


def _usual(kinds: Counter[str]) -> str:
    """A mark or a capital here and there is enough for a source to be written in sentences."""
    if kinds[SENTENCES] > STYLED * kinds.total():
        return SENTENCES
    return "capitals" if kinds["capitals"] > kinds["lower case"] else "lower case"
