"""Cuts that can only be read in a row, made readable in any order."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable

import numpy as np
from lhotse.cut import Cut


class Spool:
    """Cuts (without audio in them) by number. They are read once, into a temporary file, which processes share.

    Memory is 12 bytes a clip; on the disk a clip takes about a kilobyte.
    """

    def __init__(self, cuts: Iterable[Cut]) -> None:
        seconds, ends = [], [0]
        with tempfile.TemporaryFile(prefix="depthup-") as file:
            for cut in cuts:
                seconds.append(cut.duration)
                ends.append(ends[-1] + file.write(pickle.dumps(cut)))
            file.flush()
            self.content = np.memmap(file, np.uint8, "r") if seconds else np.zeros(0, np.uint8)
        self.ends = np.array(ends)
        self.seconds = np.array(seconds, dtype=np.float32)
        self.shard_sizes = np.array([len(seconds)])

    def cut(self, number: int) -> Cut:
        """A cut as it was."""
        return pickle.loads(self.content[self.ends[number] : self.ends[number + 1]].tobytes())
