"""A line on how far long work has come: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 60.0
"""Seconds between two lines where nobody watches."""


class ClipProgress:
    """Clips and hours done, hours per second, and time left where the number of clips is known. A context.

    `what` stands before the numbers of a line.
    """

    def __init__(self, total: int | None, what: str = "") -> None:
        self.total, self.what = total, what
        columns = (TextColumn("{task.fields[told]}"), BarColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self.bar = Progress(
            *(columns if total else columns[:1]), console=console, transient=True, disable=not console.is_terminal
        )
        self.task = self.bar.add_task("", total=total, told="")
        self.began = self.last_line = time.perf_counter()
        self.clips, self.hours, self.new_clips, self.new_hours = 0, 0.0, 0, 0.0

    def __enter__(self) -> ClipProgress:
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def had(self, clips: int, seconds: float) -> None:
        """Count what was there already."""
        self.clips += clips
        self.hours += seconds / 3600

    def did(self, clips: int, seconds: float) -> None:
        """Count what was done now."""
        self.had(clips, seconds)
        self.new_clips += clips
        self.new_hours += seconds / 3600
        now = time.perf_counter()
        wall = now - self.began
        told = f"{self.what}{self.clips} clips  {self.hours:.2f} h  {self.new_hours / wall:.3f} h/s"
        self.bar.update(self.task, completed=self.clips, told=told)
        if self.bar.disable and now - self.last_line > LINE_EVERY:
            self.last_line = now
            left = ""
            if self.total and self.new_clips:
                seconds = wall / self.new_clips * max(0, self.total - self.clips)
                left = f"  {timedelta(seconds=round(seconds))} left"
            self.bar.console.print(told + left, highlight=False, markup=False)
