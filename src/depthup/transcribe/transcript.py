"""What is known of a recording once it was heard; all times are in seconds from its beginning."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass
class Word:
    """One word as it is written; `confidence` is between 0 and 1."""

    start: float
    end: float
    text: str
    confidence: float | None = None


@dataclass
class Segment:
    """A stretch of a recording and what was said in it.

    `words` is empty where no times of words were asked for, `confidence` None where nothing tells it. A segment is
    `flagged` where what the LLM wrote is not what was spelled to it, so that it may be invented.
    """

    start: float
    end: float
    text: str
    words: list[Word] = field(default_factory=list)
    confidence: float | None = None
    flagged: bool = False

    def later(self, seconds: float) -> Segment:
        """The same, so much later."""
        words = [replace(w, start=_rounded(w.start + seconds), end=_rounded(w.end + seconds)) for w in self.words]
        return replace(self, start=_rounded(self.start + seconds), end=_rounded(self.end + seconds), words=words)


@dataclass
class Transcript:
    """What was said in one recording; `error` is the one line that says why there is no text."""

    path: str
    text: str = ""
    duration: float = 0.0
    language: str | None = None
    segments: list[Segment] = field(default_factory=list)
    error: str | None = None
    channel: int | None = None
    """Of the recording, where each was transcribed by itself."""


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
