"""One line that says how far transcription is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Optional, Union

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from depthup.data.reader import measure
from depthup.errors import UserError
from depthup.train.progress import clock
from depthup.transcribe.reading import expand
from depthup.transcribe.recordings import Progress as OnProgress

MOST_MEASURED = 500
"""Of more files nobody waits for the length, so that no time left is shown."""


@contextmanager
def progress_line(paths: Sequence[Union[str, Path]]) -> Iterator[Optional[OnProgress]]:
    """Shows seconds heard, of how many, how fast, and the time left; nothing where standard error is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), _Heard())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("transcribing", total=_total(paths))
        yield lambda seconds: shown.advance(task, seconds)


def _total(paths: Sequence[Union[str, Path]]) -> Optional[float]:
    found = list(islice(expand(paths), MOST_MEASURED + 1))
    if len(found) > MOST_MEASURED or any(str(path) == "-" for path in found):
        return None
    total = 0.0
    for path in found:
        with suppress(UserError):  # it will be named when its turn comes
            total += measure(path)
    return total


class _Heard(ProgressColumn):
    def render(self, task: Task) -> Text:
        told = clock(task.completed)
        if task.total:
            told += f" of {clock(task.total)}"
        if task.elapsed and task.completed:
            speed = task.completed / task.elapsed
            told += f"  {speed:.0f} x"
            if task.total:
                told += f"  {clock(max(0.0, task.total - task.completed) / speed)} left"
        return Text(told)
