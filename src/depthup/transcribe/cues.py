"""Segments as subtitles: a line or two at a time, cut where one would breathe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len

from depthup.transcribe.times import UNIT, spread_words
from depthup.transcribe.transcript import Segment, Transcript, Word

LINE = 42
"""Widest line, in columns (a Han character takes two): the BBC's and Netflix' guidelines are 37 to 42."""
LINES = 2
LONGEST_SECONDS = 7.0
LEAST_SECONDS = 1.0
"""A cue stands so long, unless the next one comes."""
CLAUSE, SENTENCE = (",", ";", ":", "\u3001", "\uff0c"), (".", "!", "?", "\u2026", "\u3002", "\uff01", "\uff1f")
GAIN = {CLAUSE: 0.3, SENTENCE: 0.6}
"""What a cue gains that ends there, where a cue costs 1, and one that is nearly empty nearly another."""
BREATH_SECONDS = 0.3
"""A pause that is as good a place to cut as the end of a clause."""


@dataclass
class Cue:
    """What stands on the screen from `start` to `end`, in seconds."""

    start: float
    end: float
    lines: list[str]


def cues(transcript: Transcript) -> list[Cue]:
    """The transcript's subtitles, in order; without times of words these are taken to be spread over their segment."""
    found = [cue for segment in transcript.segments for cue in _cues_of(segment)]
    for cue, following in zip_longest(found, found[1:]):
        cue.end = max(cue.end, cue.start + LEAST_SECONDS)
        if following is not None:
            cue.end = max(cue.start, min(cue.end, following.start))
    return found


def _cues_of(segment: Segment) -> Iterator[Cue]:
    spans = [found.span() for found in UNIT.finditer(segment.text)]
    words = segment.words if len(segment.words) == len(spans) else spread_words(segment)
    first = 0
    for last in _cuts(segment.text, spans, words):
        text = segment.text[spans[first][0] : spans[last - 1][1]]
        yield Cue(words[first].start, words[last - 1].end, _lines(text))
        first = last


def _cuts(text: str, spans: Sequence[tuple[int, int]], words: Sequence[Word]) -> list[int]:
    """Numbers of the words behind the last of each cue, so that all cues together cost least."""
    best = [0.0] + [float("inf")] * len(words)
    came = [0] * (len(words) + 1)
    for last in range(1, len(words) + 1):
        for first in range(last - 1, -1, -1):
            width = cell_len(text[spans[first][0] : spans[last - 1][1]])
            long = words[last - 1].end - words[first].start > LONGEST_SECONDS
            if first < last - 1 and (long or len(_lines(text[spans[first][0] : spans[last - 1][1]])) > LINES):
                break
            cost = best[first] + 1 + max(0.0, 1 - width / LINE) ** 2 - _gain(words, last)
            if cost < best[last]:
                best[last], came[last] = cost, first
    cuts = [len(words)] if words else []
    while cuts and came[cuts[0]]:
        cuts.insert(0, came[cuts[0]])
    return cuts


def _gain(words: Sequence[Word], last: int) -> float:
    """How good a place to cut is behind the word before number `last`."""
    ends = next((gain for ends, gain in GAIN.items() if words[last - 1].text.endswith(ends)), 0.0)
    pause = last < len(words) and words[last].start - words[last - 1].end >= BREATH_SECONDS
    return max(ends, GAIN[CLAUSE] if pause else 0.0)


def _lines(text: str) -> list[str]:
    """The text in as few lines as hold it, two of them as equal as they can be; a longer word has a line of its own."""
    if cell_len(text) <= LINE:
        return [text]
    ends = [found.end() for found in UNIT.finditer(text)]
    halves = [(text[:end], text[end:].strip()) for end in ends[:-1]]
    fitting = [half for half in halves if max(cell_len(half[0]), cell_len(half[1])) <= LINE]
    if fitting:
        first, second = min(fitting, key=lambda half: abs(cell_len(half[0]) - cell_len(half[1])))
        return [first, second]
    if not halves:
        return [text]
    held = [half for half in halves if cell_len(half[0]) <= LINE] or halves[:1]
    return [held[-1][0], *_lines(held[-1][1])]
