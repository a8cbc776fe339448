"""Which clips come together in a batch: numbers of clips and their durations, and no clip itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from depthup.config import DataConfig
from depthup.data.mixing import Sources, in_epoch
from depthup.errors import UserError

# Tells these random choices from those of `mixing`.
BATCHES = 3
# Clips whose durations decide the bounds of the buckets, evenly spaced over all.
CLIPS_FOR_BUCKETS = 100_000
# Clips whose durations are looked at together.
CLIPS = 1_000_000
# Clips left out that are named.
NAMED = 3


@dataclass
class LeftOut:
    """Clips that do not take part."""

    clips: int = 0
    seconds: float = 0.0
    first: list[int] = field(default_factory=list)
    """Numbers of the first few."""

    def add(self, numbers: np.ndarray, seconds: np.ndarray, which: np.ndarray) -> None:
        """Of clips [N] with these durations [N] those for which `which` [N] is true."""
        self.clips += int(which.sum())
        self.seconds += float(seconds[which].sum(dtype=np.float64))
        self.first += numbers[which][: NAMED - len(self.first)].tolist()


class Bucketing:
    """The batches of every epoch, for all ranks and workers, from durations alone.

    A batch holds clips of one duration bucket and, padded to the bucket's bound, at most `data.batch_seconds` of audio
    (a longer clip comes alone). `data.shuffle_buffer` clips of the epoch's order are shuffled together and give as
    many full batches as they can; the rest waits for those that follow. What still waits at the end of an epoch comes
    last, in batches across buckets.

    Raises UserError where no clip lasts between `data.min_duration` and `data.max_duration`.
    """

    def __init__(self, sources: Sources, data: DataConfig, weights: Sequence[float] | None = None) -> None:
        """`weights` are the sources' shares of clips; without them every clip comes once an epoch."""
        self.sources, self.data, self.weights = sources, data, weights
        self.num_clips = int(sources.sizes.sum())
        self.too_short, self.too_long = LeftOut(), LeftOut()
        for first in range(0, self.num_clips, CLIPS):
            numbers = np.arange(first, min(first + CLIPS, self.num_clips))
            seconds = sources.seconds(numbers)
            self.too_short.add(numbers, seconds, seconds < data.min_duration)
            self.too_long.add(numbers, seconds, seconds > data.max_duration)
        if self.too_short.clips + self.too_long.clips == self.num_clips:
            raise UserError(
                f"data: no clip lasts between data.min_duration ({data.min_duration} s) and data.max_duration "
                f"({data.max_duration} s); widen them or check the durations in the manifest"
            )
        self.bounds, self.batch_sizes = self._buckets()

    def left_out(self) -> Iterator[str]:
        """A line on the clips that are too short, and one on those too long: how many, how many hours, and which."""
        bounds = {
            f"shorter than data.min_duration ({self.data.min_duration:g} s)": self.too_short,
            f"longer than data.max_duration and the encoder allow ({self.data.max_duration:g} s)": self.too_long,
        }
        for why, out in bounds.items():
            if out.clips:
                cuts = [cut.id for number in out.first if (cut := self.sources.cut(number)) is not None]
                yield (
                    f"left out {out.clips} of {self.num_clips} clips, {out.seconds / 3600:.3f} hours, {why}: "
                    f"{', '.join(cuts)}{', ...' if out.clips > len(cuts) else ''}"
                )

    def epoch(self, seed: int, epoch: int) -> Iterator[np.ndarray]:
        """Numbers [clips] of the clips of each batch, in order, which follows from `seed` and `epoch` alone."""
        rng = np.random.default_rng([seed, epoch, BATCHES])
        waiting = np.zeros(0, np.int64)
        for numbers in in_epoch(self.sources, seed, epoch, self.weights, self.data.shuffle_buffer):
            clips = np.concatenate([waiting, numbers[self._fits(self.sources.seconds(numbers))]])
            batches, rests = self._batches(rng.permutation(clips))
            waiting = np.concatenate(rests)
            yield from (batches[index] for index in rng.permutation(len(batches)))
        last = self._last_batches(waiting, rng)
        yield from (last[index] for index in rng.permutation(len(last)))

    def _last_batches(self, clips: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """What no bucket could fill a batch with: clips [N] of all buckets, those of like duration together."""
        if not len(clips):
            return []
        # Not quite by duration: of a small corpus this is nearly all, and would come together in every epoch alike.
        clips = clips[np.argsort(self.sources.seconds(clips) * rng.uniform(0.9, 1.1, len(clips)))]
        begins, longest = [0], 0.0
        for place, length in enumerate(self.sources.seconds(clips)):
            size, longest = place + 1 - begins[-1], max(longest, length)
            if size > 1 and (size > self.data.max_batch_clips or size * longest > self.data.batch_seconds):
                begins.append(place)
                longest = length
        return np.split(clips, begins[1:])

    def _batches(self, clips: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Full batches of clips [N], and what is left in each bucket, in the order of the clips."""
        bucket = np.searchsorted(self.bounds, self.sources.seconds(clips))
        clips = clips[np.argsort(bucket, kind="stable")]
        ends = np.cumsum(np.bincount(bucket, minlength=len(self.bounds)))
        full: list[np.ndarray] = []
        rests = []
        for group, size in zip(np.split(clips, ends[:-1]), self.batch_sizes, strict=True):
            whole = len(group) // size * size
            full += list(group[:whole].reshape(-1, size))
            rests.append(group[whole:])
        return full, rests

    def _fits(self, seconds: np.ndarray) -> np.ndarray:
        return (self.data.min_duration <= seconds) & (seconds <= self.data.max_duration)

    def _buckets(self) -> tuple[np.ndarray, np.ndarray]:
        """Longest duration [buckets] in each bucket, float32, and how many of its clips fill a batch."""
        data = self.data
        spaced = np.linspace(0, self.num_clips - 1, min(self.num_clips, CLIPS_FOR_BUCKETS)).astype(np.int64)
        seconds = self.sources.seconds(spaced)
        seconds = np.sort(seconds[self._fits(seconds)])
        # As much audio in each bucket.
        audio = np.cumsum(seconds, dtype=np.float64)
        shares = np.arange(1, data.num_buckets) / data.num_buckets
        inner = seconds[np.searchsorted(audio, shares * audio[-1])] if len(seconds) else seconds
        bounds = np.unique([*inner, *seconds[-1:], data.max_duration]).astype(np.float64)
        filled = np.maximum(data.batch_seconds // bounds, 1)
        sizes = np.minimum(filled, data.max_batch_clips).astype(int)
        # Of buckets whose batches hold as many clips, the last takes all longer ones that still fit in.
        last = (np.diff(filled, append=0) != 0) & (filled <= data.max_batch_clips)
        bounds[last] = np.maximum(bounds, np.minimum(data.batch_seconds / filled, data.max_duration))[last]
        return bounds.astype(np.float32), sizes
