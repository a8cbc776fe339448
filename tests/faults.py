"""Full disks at a chosen moment, and what a kill leaves at any: before the n-th change to the files of a directory."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}

# Its server imports what is slow once, and never computes, so that a child of it may.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["depthup.api", "depthup.train.trainer"])


def at_change(number: int, directory: Path, act: Callable[[], None]) -> None:
    """Call `act` before the change of this number, and all later ones, that this process makes below `directory`."""
    count = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            changes = isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            changes = event in CHANGES
        # What removes a tree names files by themselves.
        if changes and (str(args[0]).startswith(str(directory)) or not os.path.isabs(args[0])):
            count += 1
            if count >= number:
                act()

    sys.addaudithook(watch)


def keep_before_changes(directory: Path, kept: Path) -> None:
    """Before each change of this process below `directory`, copy it into `kept`: what a kill then would leave."""
    kept.mkdir()

    def copy() -> None:
        if directory.is_dir():
            shutil.copytree(directory, kept / f"{len(list(kept.iterdir())):04}")

    at_change(1, directory, copy)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def start(work: Callable[..., Any], *args: Any) -> Any:
    """A process that runs `work`, whose exit code it has if that is a number."""
    process = FORKS.Process(target=_run, args=(work, *args))
    process.start()
    return process


def _run(work: Callable[..., Any], *args: Any) -> None:
    import torch

    torch.set_num_threads(1)
    sys.exit(work(*args))


def ended(process: Any) -> int:
    """The exit code; negative after a kill."""
    process.join(300)
    return int(process.exitcode)
