"""Cuts that can only be read in a row, made readable in any order."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable

import numpy as np
from lhotse.cut import Cut

ROW = np.dtype([("seconds", "<f4"), ("end", "<u8")])
"""Duration of a cut, and where its bytes end."""


class Spool:
    """Cuts (without audio in them) by number. They are read once, into temporary files, which processes share.

    Memory does not grow with the cuts; on the disk one takes about a kilobyte.
    """

    def __init__(self, cuts: Iterable[Cut]) -> None:
        end = 0
        with tempfile.TemporaryFile(prefix="depthup-") as content, tempfile.TemporaryFile(prefix="depthup-") as rows:
            for cut in cuts:
                end += content.write(pickle.dumps(cut))
                rows.write(np.array((cut.duration, end), ROW).tobytes())
            content.flush()
            rows.flush()
            self.content = np.memmap(content, np.uint8, "r") if end else np.zeros(0, np.uint8)
            self.rows = np.memmap(rows, ROW, "r") if end else np.zeros(0, ROW)
        self.seconds = self.rows["seconds"]
        self.shard_sizes = np.array([len(self.rows)])

    def cut(self, number: int) -> Cut:
        """A cut as it was."""
        begin = self.rows["end"][number - 1] if number else 0
        return pickle.loads(self.content[begin : self.rows["end"][number]].tobytes())
