"""Which waiting rows are read next: every request in turn, rows of like size together."""

from __future__ import annotations

from collections.abc import Sequence

from depthup.serve.rows import Row

LIKE = 2.0
"""Rows within this factor of each other are of like size: at most half of what is computed is padding."""


def choose(waiting: Sequence[Row], room: int, budget: float) -> list[Row]:
    """At most `room` rows that are read in one pass of at most `budget` tokens, padding included; one at least.

    The first is the oldest row of the request with the fewest rows running, so that a long recording takes turns with
    short ones and no row waits for ever; those that join it are of its kind and of like size, in the same order.
    """
    if not waiting or room < 1:
        return []
    taken: dict[int, int] = {}

    def turn(row: Row) -> tuple[int, float]:
        return row.work.running + taken.get(id(row.work), 0), row.arrived

    left = list(waiting)
    first = min(left, key=turn)
    chosen: list[Row] = []
    row, longest = first, first.size
    while True:
        chosen.append(row)
        left.remove(row)
        taken[id(row.work)] = taken.get(id(row.work), 0) + 1
        like = [
            other
            for other in left
            if not other.alone
            and (other.transcript, other.draft_only) == (first.transcript, first.draft_only)
            and first.size / LIKE <= other.size <= first.size * LIKE
            and max(longest, other.size) * (len(chosen) + 1) <= budget
        ]
        if first.alone or len(chosen) == room or not like:
            return chosen
        row = min(like, key=turn)
        longest = max(longest, row.size)
