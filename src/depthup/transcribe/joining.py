"""Segments of one recording put together, where neighbours heard the same second."""

from __future__ import annotations

from dataclasses import replace
from difflib import SequenceMatcher

from depthup.transcribe.times import UNIT, spread_words
from depthup.transcribe.transcript import Segment, Word

NEAR_SECONDS = 0.5
"""The same word has at most so different times on both sides of a cut."""


def join(segments: list[Segment], new: Segment, shared: float) -> None:
    """Add a segment, if it holds text, behind those before it; of its beginning they heard `shared` seconds too.

    What both heard is kept once: up to a word that both have at one time, else up to the middle of what is shared.
    Where words have no times they are taken to be spread evenly.
    """
    if not new.text:
        return
    last = segments[-1] if segments else None
    if not shared or last is None or last.end <= new.start:
        segments.append(new)
        return
    middle = new.start + shared / 2
    old_words, new_words = last.words or spread_words(last), new.words or spread_words(new)
    near = NEAR_SECONDS if last.words and new.words else shared
    before, after = _seam(old_words, new_words, new.start, last.end, middle, near)
    ends = [_cut(last, 0, before, end=middle), _cut(new, after, len(new_words), start=middle)]
    segments[-1:] = [segment for segment in ends if segment.text]


def _seam(old: list[Word], new: list[Word], start: float, end: float, middle: float, near: float) -> tuple[int, int]:
    """How many of the old words stand before the seam, and the number of the first new word behind it."""
    first = sum(word.end < start for word in old)
    tail, head = old[first:], [word for word in new if word.start <= end]
    same = SequenceMatcher(None, [_key(word) for word in tail], [_key(word) for word in head], autojunk=False)
    pairs = [
        (first + block.a + i, block.b + i)
        for block in same.get_matching_blocks()
        for i in range(block.size)
        if abs(tail[block.a + i].start - head[block.b + i].start) <= near
    ]
    if pairs:
        return min(pairs, key=lambda pair: abs(_centre(new[pair[1]]) - middle))
    return sum(_centre(word) < middle for word in old), sum(_centre(word) < middle for word in new)


def _cut(segment: Segment, first: int, last: int, start: float | None = None, end: float | None = None) -> Segment:
    """The segment's words from number `first` up to `last`, with their text, between these times."""
    spans = [found.span() for found in UNIT.finditer(segment.text)][first:last]
    text = segment.text[spans[0][0] : spans[-1][1]] if spans else ""
    return replace(
        segment,
        start=segment.start if start is None else round(start, 3),
        end=segment.end if end is None else round(end, 3),
        text=text,
        words=segment.words[first:last],
    )


def _key(word: Word) -> str:
    return "".join(filter(str.isalnum, word.text.casefold()))


def _centre(word: Word) -> float:
    return (word.start + word.end) / 2
