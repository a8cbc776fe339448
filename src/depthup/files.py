"""Files and directories that stand whole or not at all, whatever stops the process or the machine."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union

from safetensors import SafetensorError

from depthup.errors import UserError

log = logging.getLogger("depthup")

CACHE = Path(os.environ.get("DEPTHUP_CACHE", "~/.cache/depthup")).expanduser()
"""What is kept on this machine between runs, in a folder for each kind."""
OTHER_CACHE = "set DEPTHUP_CACHE to another place"
PARTIAL = ".partial-"
"""Begins the name of what is being written or removed."""
FULL = (errno.ENOSPC, errno.EDQUOT)
os.umask(UMASK := os.umask(0))
MODE = 0o666 & ~UMASK
"""Of new files; safetensors would let nobody but their owner read its own."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a place beside `path` for a file or directory, which moves to `path` at the end.

    An error removes it again and leaves what stood at `path`. A directory may take the place of an empty one only.
    """
    partial = _beside(path)
    try:
        yield partial
        move(partial, path)
    except BaseException:
        _delete(partial)
        raise


@contextmanager
def filled(directory: Path, last: str) -> Iterator[Path]:
    """Gives a new directory whose files move into `directory` at the end, the one named `last` after all others.

    An error leaves `directory` as it was.
    """
    directory.mkdir(parents=True, exist_ok=True)
    partial = _beside(directory / last)
    partial.mkdir()
    try:
        yield partial
        _settle(partial)
        for file in sorted(partial.iterdir(), key=lambda file: file.name == last):
            os.replace(file, directory / file.name)
        _sync(directory)
    finally:
        _delete(partial)


def new_directory(path: Union[str, Path]) -> Path:
    """`path`, where nothing stands yet but perhaps an empty directory. Raises UserError."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: is not empty, and nothing is overwritten; choose another directory")
    return path


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, whole or not at all; what is no text, as in some names of files, with a backslash."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Write JSON in UTF-8, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def move(partial: Path, path: Path) -> None:
    """Move a file or directory to its place in one step, once all of it is safe on the disk."""
    _settle(partial)
    os.replace(partial, path)
    _sync(path.parent)


def remove(directory: Path) -> None:
    """Remove a directory; a kill meanwhile leaves it whole, or under a name that `clear` knows."""
    partial = _beside(directory)
    os.replace(directory, partial)
    _delete(partial)


def clear(directory: Path) -> None:
    """Remove what a killed process has left half written or half removed in `directory`."""
    for left_over in directory.glob(f"{PARTIAL}*"):
        _delete(left_over)


@contextmanager
def disk_guard(directory: Path) -> Iterator[None]:
    """Turn a full disk, or a used-up quota, into one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in FULL or any(f"os error {number}" in str(error) for number in FULL):
            raise UserError(
                f"{directory}: no space left on the disk; what was complete is kept, free some and run the same again"
            ) from error
        raise


@contextmanager
def made(directory: Path, way_out: str = "choose another directory") -> Iterator[None]:
    """Makes a directory for what is written within. Raises UserError where that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{directory}: cannot be written to ({reason}); {way_out}") from error


def sha256(path: Path) -> str:
    """Hexadecimal, of a file's contents."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes out that ask for the same directory. Raises UserError where one is in it."""
    descriptor = os.open(directory, os.O_RDONLY)
    _locks.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{directory}: another process is at work in it; wait for its end or choose another directory"
            ) from error
        except OSError as error:
            # Some network file systems have no locks.
            log.warning("%s: is not locked against a second process (%s)", directory, error.strerror)
        yield
    finally:
        _locks.discard(descriptor)
        os.close(descriptor)


_locks: set[int] = set()


def _leave_locks() -> None:
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


# A worker that outlives its killed parent for a moment must not keep the directory.
os.register_at_fork(after_in_child=_leave_locks)


def _beside(path: Path) -> Path:
    return path.with_name(f"{PARTIAL}{path.name}-{secrets.token_hex(4)}")


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Give a file, or all that a directory holds, their mode, and wait until they have reached the disk."""
    for inner in (*path.rglob("*"), path):
        if inner.is_file():
            inner.chmod(MODE)
        _sync(inner)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do this for directories.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
