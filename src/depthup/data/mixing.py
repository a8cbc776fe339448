"""Several sources of cuts as one: in a row, or mixed by weight, in an order that an epoch decides."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from lhotse import CutSet
from lhotse.cut import Cut

from depthup.data.shar import ShardCuts


class Source(Protocol):
    """The cuts of one source, iterable again and again."""

    def __iter__(self) -> Iterator[Cut]: ...

    def num_clips(self) -> int | None: ...


@dataclass(frozen=True)
class Sources:
    """The cuts of all sources, one source after the other."""

    parts: tuple[Source, ...]

    def __iter__(self) -> Iterator[Cut]:
        return chain.from_iterable(self.parts)

    def num_clips(self) -> int | None:
        """About how many, without reading audio; None where a source does not know."""
        counts = [part.num_clips() for part in self.parts]
        known = [number for number in counts if number is not None]
        return sum(known) if len(known) == len(counts) else None


def in_epoch(cuts: CutSet, seed: int, epoch: int, weights: Sequence[float] | None = None) -> Iterable[Cut]:
    """What `load_cuts` gave, in the order of an epoch, which follows from `seed` and `epoch` alone.

    Shards come in a random order; everything else in its own. Without weights an epoch is every clip once, one source
    after the other. With weights, one for each source, the next clip comes from a source drawn by weight, so that
    these are the sources' shares of clips from beginning to end; a source that is through begins again, and the epoch
    ends when all have been through once. So every clip comes at least once, and none is repeated before all others of
    its source.
    """
    if not isinstance(cuts.data, Sources):
        return cuts
    parts = cuts.data.parts

    def one_pass(index: int, number: int) -> Iterable[Cut]:
        part = parts[index]
        return part.shuffled(f"{seed} {epoch} {index} {number}") if isinstance(part, ShardCuts) else part

    if not weights:
        return chain.from_iterable(one_pass(index, 0) for index in range(len(parts)))
    return _mixed(one_pass, weights, random.Random(f"{seed} {epoch}"))


def _mixed(
    one_pass: Callable[[int, int], Iterable[Cut]], weights: Sequence[float], rng: random.Random
) -> Iterator[Cut]:
    """Not `CutSet.mux`: when a source ends it either drops it, and the shares with it, or the rest of all others."""
    sources = range(len(weights))
    passes = [0] * len(weights)
    streams = [iter(one_pass(index, 0)) for index in sources]
    while True:
        index = rng.choices(sources, weights)[0]
        cut = next(streams[index], None)
        if cut is not None:
            yield cut
            continue
        passes[index] += 1
        if all(passes):
            return
        streams[index] = iter(one_pass(index, passes[index]))
