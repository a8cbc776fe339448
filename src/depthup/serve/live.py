"""A microphone's samples as utterances: where somebody begins to speak, and where they pause."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from depthup.transcribe.segments import LEAST_SECONDS, MARGIN_SECONDS, OFFSET, ONSET, QUIET_SECONDS
from depthup.transcribe.transcript import Segment
from depthup.transcribe.voice import FRAME, Detector

LONGEST_SECONDS = 15.0
"""An utterance without a pause is over then: while its final text is written, what follows has none."""
SETTLED_SECONDS = 5.0
"""An utterance longer than this is heard again without its first words, as far as they are sure, or its text would come
ever later."""
UNSURE_SECONDS = 7.0
"""Where what is heard again grows longer than this, also without words that are not sure."""
AGAIN_SECONDS = 2.5
"""Its last seconds are always heard again, so that what is new has something before it."""


@dataclass
class Utterance:
    """What somebody says between two pauses; `start` and `end` are seconds from the beginning of the session."""

    number: int
    start: float
    frames: list[np.ndarray] = field(default_factory=list)
    voiced: int = 0
    """Frames with speech."""
    quiet: int = 0
    """Frames without speech since the last one with it."""
    over: bool = False

    @property
    def samples(self) -> np.ndarray:
        return np.concatenate(list(self.frames)) if self.frames else np.zeros(0, np.float32)


class Listener:
    """Samples in, utterances out.

    An utterance begins a little before its first frame with speech and is over after a pause, or where it grows too
    long: then in its quietest moment of the last third, and the next begins there.
    """

    def __init__(self, sampling_rate: int, detect: Optional[Detector], pause_seconds: float) -> None:
        """Without `detect` nothing but `close` ends an utterance, and its length."""
        self.rate = sampling_rate
        self.configure(detect, pause_seconds)
        self.current: Optional[Utterance] = None
        self._before: deque[np.ndarray] = deque(maxlen=self._count(MARGIN_SECONDS))
        self._rest = np.zeros(0, np.float32)
        self._frames = 0
        self._number = 0

    def configure(self, detect: Optional[Detector], pause_seconds: float) -> None:
        """Go on like this."""
        self.detect, self.pause = detect, self._count(pause_seconds)

    def duration(self, frames: int) -> float:
        """Seconds of so many frames."""
        return frames * FRAME / self.rate

    @property
    def seconds(self) -> float:
        """What has been heard so far."""
        return self.duration(self._frames)

    def take(self, samples: np.ndarray) -> list[Utterance]:
        """Every utterance as it begins and, then `over`, as it ends."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // FRAME * FRAME
        self._rest = samples[whole:]
        return [found for frame in samples[:whole].reshape(-1, FRAME) for found in self._take(frame)]

    def close(self) -> list[Utterance]:
        """The utterance that has begun, if one has, as it is."""
        return [self._end()] if self.current is not None else []

    def clear(self) -> None:
        """Forget what has not been given out."""
        self.current = None
        self._before.clear()
        self._rest = np.zeros(0, np.float32)

    def _take(self, frame: np.ndarray) -> Iterator[Utterance]:
        self._frames += 1
        level = OFFSET if self.current is not None else ONSET
        speech = self.detect is None or self.detect(frame) >= level
        if self.current is None:
            self._before.append(frame)
            if speech:
                yield self._begin()
            return
        self.current.frames.append(frame)
        self.current.voiced += speech
        self.current.quiet = 0 if speech else self.current.quiet + 1
        if self.current.quiet >= self.pause and self.detect is not None:
            yield self._end()
        elif len(self.current.frames) >= self._count(LONGEST_SECONDS):
            yield from self._cut()

    def _begin(self) -> Utterance:
        frames = list(self._before)
        self._before.clear()
        start = max(0.0, self.seconds - self.duration(len(frames)))
        self.current = Utterance(self._number, start, frames, voiced=1)
        self._number += 1
        return self.current

    def _end(self) -> Utterance:
        assert self.current is not None
        ended, self.current = self.current, None
        ended.over = True
        if (kept := self.kept(ended)) < len(ended.frames):
            self._before.extend(ended.frames[-self._count(MARGIN_SECONDS) :])
            del ended.frames[kept:]
        return ended

    def _cut(self) -> Iterator[Utterance]:
        assert self.current is not None
        frames = self.current.frames
        energy = np.array([frame.var() for frame in frames])
        width = self._count(QUIET_SECONDS)
        around = np.convolve(energy, np.ones(width) / width, mode="same")
        low, high = len(frames) * 2 // 3, len(frames) - width
        at = low + int(np.argmin(around[low:high]))
        left = frames[at:]
        del frames[at:]
        self.current.quiet = 0
        yield self._end()
        self._before.clear()
        self._begin()
        assert self.current is not None
        self.current.frames, self.current.start = left, self.seconds - self.duration(len(left))
        yield self.current

    def _count(self, seconds: float) -> int:
        return max(1, round(seconds * self.rate / FRAME))

    def kept(self, utterance: Utterance) -> int:
        """Frames that it has if it is over now: of those after its last speech no more than a margin."""
        return len(utterance.frames) - max(0, utterance.quiet - self._count(MARGIN_SECONDS))

    def is_speech(self, utterance: Utterance) -> bool:
        """Whether it is more than a click."""
        return self.detect is None or utterance.voiced >= self._count(LEAST_SECONDS)


@dataclass(frozen=True)
class Settled:
    """The first words of an utterance that goes on: they are not heard again before it is over.

    They are told from `text`, and end with the utterance's first `frames` frames.
    """

    text: str = ""
    frames: int = 0

    def with_rest(self, text: str) -> str:
        """These words and what was heard after them."""
        return f"{self.text} {text}".strip()

    def further(self, sure: str, rest: Segment, rate: int) -> Settled:
        """With the first words of `rest`, which was heard after these, as far as they are `sure` and not its last.

        The same where it is short, or its words have no times; where it is long, with words that are not sure too.
        """
        words = rest.words
        known = len(words) if rest.end >= UNSURE_SECONDS else len(sure.split()) - len(self.text.split())
        if rest.end < SETTLED_SECONDS or [word.text for word in words] != rest.text.split():
            return self
        old = [n for n in range(1, min(known + 1, len(words))) if words[n - 1].end <= rest.end - AGAIN_SECONDS]
        if not old:
            return self
        n = old[-1]
        between = (words[n - 1].end + words[n].start) / 2
        text = " ".join(word.text for word in words[:n])
        return Settled(self.with_rest(text), self.frames + int(between * rate / FRAME))


def agreed(one: str, other: str) -> str:
    """The words that two texts of a growing utterance begin with alike, without the last, which may still grow."""
    words, others = one.split(), other.split()
    same = 0
    while same < min(len(words), len(others) - 1) and words[same] == others[same]:
        same += 1
    return " ".join(words[:same])
