"""The progress line of `depthup data`."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from lhotse import CutSet
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from depthup.data.mixing import Sources

# Where nobody watches, a line so often (seconds).
LINE_EVERY = 60.0


class ShardProgress:
    """Clips and hours done, hours per second, and time left where the number of clips is known. A context."""

    def __init__(self, cuts: CutSet) -> None:
        self.total = cuts.data.num_clips() if isinstance(cuts.data, Sources) else None
        columns = (TextColumn("{task.fields[told]}"), BarColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self.bar = Progress(
            *(columns if self.total else columns[:1]), console=console, transient=True, disable=not console.is_terminal
        )
        self.task = self.bar.add_task("", total=self.total, told="")
        self.began = self.last_line = time.perf_counter()
        self.clips, self.hours, self.new_clips, self.new_hours = 0, 0.0, 0, 0.0

    def __enter__(self) -> ShardProgress:
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def had(self, clips: int, seconds: float) -> None:
        """Count what was there already."""
        self.clips += clips
        self.hours += seconds / 3600

    def wrote(self, clips: int, seconds: float) -> None:
        """Count what was written now."""
        self.had(clips, seconds)
        self.new_clips += clips
        self.new_hours += seconds / 3600
        now = time.perf_counter()
        wall = now - self.began
        told = f"{self.clips} clips  {self.hours:.2f} h  {self.new_hours / wall:.3f} h/s"
        self.bar.update(self.task, completed=self.clips, told=told)
        if self.bar.disable and now - self.last_line > LINE_EVERY:
            self.last_line = now
            left = ""
            if self.total:
                seconds = wall / self.new_clips * max(0, self.total - self.clips)
                left = f"  {timedelta(seconds=round(seconds))} left"
            self.bar.console.print(told + left, highlight=False)
