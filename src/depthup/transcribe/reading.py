"""Recordings from files, folders and standard input."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from depthup.data import reader
from depthup.data.decoders import SUFFIXES
from depthup.errors import UserError

log = logging.getLogger("depthup")


def expand(paths: Iterable[str | Path]) -> Iterator[str | Path]:
    """The paths, with the recordings below each folder, sorted, in its place."""
    for path in paths:
        if str(path) != "-" and Path(path).is_dir():
            found: list[Path] = sorted(p for p in Path(path).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            # An empty folder stays in the list and is reported like a bad file.
            yield from found or (path,)
        else:
            yield path


def read(path: str | Path, sampling_rate: int) -> np.ndarray:
    """The samples of a file, or with `-` of standard input, as `read_audio_file` gives them. Raises UserError."""
    if str(path) == "-":
        return read_audio_file(sys.stdin.buffer, sampling_rate)
    if Path(path).is_dir():
        raise UserError(f"{path}: no recordings in this folder; known suffixes are {' '.join(sorted(SUFFIXES))}")
    return read_audio_file(path, sampling_rate)


def read_audio_file(source: str | Path | BinaryIO, sampling_rate: int) -> np.ndarray:
    """The samples of a recording, float32 [samples], mono at `sampling_rate`; what is odd about it goes to the log.

    Raises BadAudio, a UserError, if it is missing, unreadable, empty or has samples that are no sound.
    """
    samples, notes = reader.read(source, sampling_rate)
    for note in notes:
        log.warning("%s", note)
    return samples
