"""Which stretches of a recording the model hears at once: cut in pauses, without long silence, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from depthup.transcribe.voice import FRAME, Detector

ONSET, OFFSET = 0.5, 0.35
"""Likelihood of speech from which a stretch begins, and below which it may end."""
PAUSE_SECONDS = 0.6
"""So long a pause ends a stretch."""
MARGIN_SECONDS = 0.25
"""Heard before and after speech: soft beginnings and ends are not seen as speech."""
LEAST_SECONDS = 0.2
"""Less speech than this in a stretch is a click, or a breath."""
QUIET_SECONDS = 0.3
"""A cut falls in the middle of the quietest stretch of this length."""
OVERLAP_SECONDS = 1.0
"""Heard on both sides of a cut that falls in speech."""
PAUSE_SHARE = 0.01
"""Share of the mean energy that the quietest stretch may have for a cut in it not to fall in speech (-20 dB)."""


@dataclass
class Piece:
    """What the model hears at once. `shared` is how many of its first samples end the piece before it."""

    start: int
    samples: np.ndarray
    shared: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.samples)


def pieces(
    blocks: Iterable[np.ndarray], sampling_rate: int, max_seconds: float, detect: Optional[Detector]
) -> Iterator[Piece]:
    """Cut a recording into pieces of at most `max_seconds` (at least 2), as soon as each is complete.

    Args:
        blocks: the recording's samples [samples], in order; of them no more than a piece and a quarter are held.
        detect: a new detector, and what it takes for silence is left out; with None pieces cover every sample.

    A piece ends in a pause. Where speech goes on for longer, the cut falls into its quietest moment, in the later half
    of what is allowed, and leaves no scrap; if that is no pause, both sides hear a second more, so that the word there
    is whole in one of them.
    """
    cutter = _Cutter(sampling_rate, max_seconds, drop=detect is not None)
    for frame in _frames(blocks):
        padded = frame if len(frame) == FRAME else np.pad(frame, (0, FRAME - len(frame)))
        yield from cutter.take(frame, detect(padded) if detect else 1.0)
    yield from cutter.finish()


def _frames(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same samples in frames; the last one may be shorter."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block]) if len(rest) else block
        whole = len(rest) // FRAME * FRAME
        yield from rest[:whole].reshape(-1, FRAME)
        rest = rest[whole:]
    if len(rest):
        yield rest


@dataclass
class _Cutter:
    sampling_rate: int
    max_seconds: float
    drop: bool
    frames: list[np.ndarray] = field(default_factory=list)
    """Not given out yet."""
    first: int = 0
    """Number of the first of them."""
    speech: list[bool] = field(default_factory=list)
    begun: bool = False
    last: int = 0
    """After the last frame with speech."""
    shared: int = 0

    def take(self, frame: np.ndarray, likelihood: float) -> Iterator[Piece]:
        """The next frame; gives the piece that it completes."""
        self.frames.append(np.array(frame))
        self.speech.append(likelihood >= (OFFSET if self.begun else ONSET))
        if self.speech[-1]:
            self.begun, self.last = True, self._end
        elif not self.begun:
            self._forget(len(self.frames) - self._count(MARGIN_SECONDS))
        if self.begun and self.drop and self._end - self.last >= self._count(PAUSE_SECONDS):
            yield from self._close(self.last + self._count(MARGIN_SECONDS))
        elif len(self.frames) >= self._longest + self._longest // 4:
            yield self._cut(self._longest)

    def finish(self) -> Iterator[Piece]:
        """The pieces left when the recording is over."""
        while len(self.frames) > self._longest:
            yield self._cut(min(self._longest, len(self.frames) - self._longest // 4))
        if self.begun:
            yield from self._close(min(self.last + self._count(MARGIN_SECONDS), self._end))

    @property
    def _end(self) -> int:
        return self.first + len(self.frames)

    @property
    def _longest(self) -> int:
        return int(self.max_seconds * self.sampling_rate) // FRAME

    def _count(self, seconds: float) -> int:
        return max(1, round(seconds * self.sampling_rate / FRAME))

    def _forget(self, count: int) -> None:
        if count > 0:
            del self.frames[:count], self.speech[:count]
            self.first += count

    def _piece(self, count: int) -> Piece:
        piece = Piece(self.first * FRAME, np.concatenate(self.frames[:count]), self.shared)
        self.shared = 0
        return piece

    def _close(self, end: int) -> Iterator[Piece]:
        """What was begun up to frame number `end`, unless it is a click."""
        count = end - self.first
        if not self.drop or self.shared or sum(self.speech[:count]) >= self._count(LEAST_SECONDS):
            yield self._piece(count)
        self._forget(count)
        self.begun, self.shared = False, 0

    def _cut(self, most: int) -> Piece:
        """A piece of at most so many frames."""
        energy = np.array([frame.var() for frame in self.frames])
        width = self._count(QUIET_SECONDS)
        around = np.convolve(energy, np.ones(width) / width, mode="same")
        overlap = self._count(OVERLAP_SECONDS)
        low = self._longest // 2
        # Of equally quiet frames the last.
        at = most - int(np.argmin(around[low : most + 1][::-1]))
        if around[at] <= PAUSE_SHARE * energy[:most].mean() or self._longest < 4 * overlap:
            piece = self._piece(at)
            self._forget(at)
            self.begun = self.last > self.first
            return piece
        at = min(at, most - overlap)
        piece = self._piece(at + overlap)
        self._forget(at - overlap)
        self.shared = 2 * overlap * FRAME
        return piece
