"""Several sources of clips as one: in a row, or mixed by weight, in an order that an epoch decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import chain
from typing import Protocol

import numpy as np
from lhotse.cut import Cut

# Tell random choices apart that share a seed and an epoch.
SHARDS, SOURCES = 1, 2


class Clips(Protocol):
    """The clips of a source by number, 0, 1, ..., in consecutive shards; a source without shards is one."""

    @property
    def seconds(self) -> np.ndarray:
        """Duration [clips] of each clip, float32."""

    @property
    def shard_sizes(self) -> np.ndarray:
        """Clips [shards] of each shard."""

    def cut(self, number: int) -> Cut | None:
        """A clip; None where it is lost, which has been told."""


class Source(Protocol):
    """The cuts of one source, iterable again and again."""

    def __iter__(self) -> Iterator[Cut]: ...

    def num_clips(self) -> int | None: ...

    def clips(self) -> Clips: ...

    def fingerprint(self) -> str:
        """A hash of what the cuts follow from, so far as that can be had without reading the recordings."""


@dataclass(frozen=True)
class Sources:
    """The cuts of all sources, one source after the other, or by number."""

    parts: tuple[Source, ...]

    def __iter__(self) -> Iterator[Cut]:
        return chain.from_iterable(self.parts)

    def num_clips(self) -> int | None:
        """About how many, without reading audio; None where a source does not know."""
        counts = [part.num_clips() for part in self.parts]
        known = [number for number in counts if number is not None]
        return sum(known) if len(known) == len(counts) else None

    @cached_property
    def clips(self) -> tuple[Clips, ...]:
        """Of each source."""
        return tuple(part.clips() for part in self.parts)

    def fingerprint(self) -> str:
        """A hash of all sources, in their order; made once, since each group of a balanced set asks for it."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return sha256(" ".join(part.fingerprint() for part in self.parts).encode()).hexdigest()

    @cached_property
    def sizes(self) -> np.ndarray:
        """Clips [sources] of each source."""
        return np.array([len(clips.seconds) for clips in self.clips])

    @cached_property
    def starts(self) -> np.ndarray:
        """Number [sources] of the first clip of each source."""
        return np.cumsum(self.sizes) - self.sizes

    def seconds(self, numbers: np.ndarray) -> np.ndarray:
        """Durations [N] of the clips with these numbers [N]."""
        found = np.empty(len(numbers), np.float32)
        source = self._source(numbers)
        for index, clips in enumerate(self.clips):
            mine = source == index
            found[mine] = clips.seconds[numbers[mine] - self.starts[index]]
        return found

    def cut(self, number: int) -> Cut | None:
        """A clip; None where it is lost, which has been told."""
        index = int(self._source(np.array(number)))
        return self.clips[index].cut(int(number - self.starts[index]))

    def _source(self, numbers: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts + self.sizes, numbers, side="right")


def in_epoch(
    sources: Sources, seed: int, epoch: int, weights: Sequence[float] | None = None, size: int = 20_000
) -> Iterator[np.ndarray]:
    """Numbers of clips, `size` at a time, in the order of an epoch, which follows from `seed` and `epoch` alone.

    Shards come in a random order; everything else in its own. Without weights an epoch is every clip once, one source
    after the other. With weights, one for each source, the next clip comes from a source drawn by weight, so that
    these are the sources' shares of clips from beginning to end; a source that is through begins again, and the epoch
    ends when all have been through once. So every clip comes at least once, and none is repeated before all others of
    its source.
    """
    if weights:
        yield from _mixed(sources, seed, epoch, np.array(weights) / sum(weights), size)
        return
    order = _Order([_one_pass(sources, index, seed, epoch, 0) for index in range(len(sources.clips))])
    for first in range(0, sources.sizes.sum(), size):
        yield order(np.arange(first, min(first + size, sources.sizes.sum())))


@dataclass(frozen=True)
class _Stretches:
    """Stretches of consecutive clips: the number [stretches] of the first of each, and how many they are."""

    first: np.ndarray
    sizes: np.ndarray


def _one_pass(sources: Sources, index: int, seed: int, epoch: int, number: int) -> _Stretches:
    """The shards of a source in the order of its pass of this number in an epoch."""
    sizes = sources.clips[index].shard_sizes
    first = sources.starts[index] + np.cumsum(sizes) - sizes
    order = np.random.default_rng([seed, epoch, SHARDS, index, number]).permutation(len(sizes))
    return _Stretches(first[order], sizes[order])


class _Order:
    """From places [N] in a row of stretches to the numbers [N] of the clips that stand there."""

    def __init__(self, stretches: Sequence[_Stretches]) -> None:
        self.first = np.concatenate([part.first for part in stretches])
        self.ends = np.cumsum(np.concatenate([part.sizes for part in stretches]))

    def __call__(self, places: np.ndarray) -> np.ndarray:
        stretch = np.searchsorted(self.ends, places, side="right")
        before = np.where(stretch > 0, self.ends[stretch - 1], 0)
        return self.first[stretch] + places - before


def _mixed(sources: Sources, seed: int, epoch: int, shares: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Not `CutSet.mux`: when a source ends it either drops it, and the shares with it, or the rest of all others."""
    rng = np.random.default_rng([seed, epoch, SOURCES])
    taken = np.zeros_like(sources.sizes)
    while (due := sources.sizes - taken).max() > 0:
        source = rng.choice(len(shares), size=size, p=shares)
        turns = [np.flatnonzero(source == index) for index in range(len(shares))]
        if all(len(turn) >= left for turn, left in zip(turns, due, strict=True)):
            last = max(turn[left - 1] for turn, left in zip(turns, due, strict=True) if left > 0)
            turns = [turn[turn <= last] for turn in turns]
        numbers = np.empty(sum(map(len, turns)), np.int64)
        for index, turn in enumerate(turns):
            numbers[turn] = _again_and_again(sources, index, seed, epoch, taken[index] + np.arange(len(turn)))
            taken[index] += len(turn)
        yield numbers


def _again_and_again(sources: Sources, index: int, seed: int, epoch: int, places: np.ndarray) -> np.ndarray:
    """Numbers [N] of the clips at places [N] of a source's passes, one after the other."""
    passes, places = np.divmod(places, sources.sizes[index])
    numbers = np.empty_like(places)
    for one in np.unique(passes):
        mine = passes == one
        numbers[mine] = _Order([_one_pass(sources, index, seed, epoch, int(one))])(places[mine])
    return numbers
