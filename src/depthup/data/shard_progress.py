"""The progress line of `depthup data`."""

from __future__ import annotations

import time
from typing import Any

from lhotse import CutSet
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from depthup.data.mixing import Sources


class ShardProgress:
    """Clips and hours done, hours per second, and time left where the number of clips is known. A context."""

    def __init__(self, cuts: CutSet) -> None:
        assert isinstance(cuts.data, Sources)
        total = cuts.data.num_clips()
        columns = (TextColumn("{task.completed:.0f} clips  {task.fields[told]}"), BarColumn(), TimeRemainingColumn())
        self.bar = Progress(*(columns if total else columns[:1]), console=Console(stderr=True))
        self.task = self.bar.add_task("", total=total, told="")
        self.began, self.hours, self.new_hours = time.perf_counter(), 0.0, 0.0

    def __enter__(self) -> ShardProgress:
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def had(self, clips: int, seconds: float) -> None:
        """Count what was there already."""
        self._advance(clips, seconds)

    def wrote(self, clips: int, seconds: float) -> None:
        """Count what was written now."""
        self.new_hours += seconds / 3600
        self._advance(clips, seconds)

    def _advance(self, clips: int, seconds: float) -> None:
        self.hours += seconds / 3600
        rate = self.new_hours / (time.perf_counter() - self.began)
        self.bar.update(self.task, advance=clips, told=f"{self.hours:.2f} h  {rate:.3f} h/s")
