"""Groups of a training set that are heard equally often, however many clips each has."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from lhotse.cut import Cut

from depthup.data.cuts import fields_of
from depthup.data.mixing import Sources
from depthup.errors import UserError

log = logging.getLogger("depthup")

MOST_GROUPS = 100


@dataclass(frozen=True)
class Group:
    """Clips of all sources that have one value of a field, as a source and as its clips."""

    sources: Sources
    numbers: np.ndarray
    """Numbers [clips] that they have in `sources`."""

    def __iter__(self) -> Iterator[Cut]:
        return (cut for number in self.numbers if (cut := self.sources.cut(int(number))) is not None)

    def num_clips(self) -> int:
        return len(self.numbers)

    def clips(self) -> Group:
        return self

    def fingerprint(self) -> str:
        return self.sources.fingerprint()

    @cached_property
    def seconds(self) -> np.ndarray:
        return self.sources.seconds(self.numbers)

    @property
    def shard_sizes(self) -> np.ndarray:
        return np.array([len(self.numbers)])

    def cut(self, number: int) -> Cut | None:
        return self.sources.cut(int(self.numbers[number]))


def by_value(sources: Sources, field: str) -> Sources:
    """The same clips, a source for each value of a manifest's field; those without it are a group too.

    Looks at every row once. Raises UserError where the field has one value or more than `MOST_GROUPS`.
    """
    groups: dict[str, list[int]] = {}
    for number in range(int(sources.sizes.sum())):
        if (cut := sources.cut(number)) is not None:
            groups.setdefault(fields_of(cut).get(field, ""), []).append(number)
    if not 1 < len(groups) <= MOST_GROUPS:
        raise UserError(
            f"data.balance {field}: the training set has {len(groups)} values of it; name a field of the manifest "
            f"with 2 to {MOST_GROUPS}, such as age or accent"
        )
    parts = tuple(Group(sources, np.array(groups[value])) for value in sorted(groups))
    told = (
        f"{value or 'none'} {part.seconds.sum() / 3600:.2f} h"
        for value, part in zip(sorted(groups), parts, strict=True)
    )
    log.warning("data.balance: heard equally often: %s %s", field, ", ".join(told))
    return Sources(parts)
