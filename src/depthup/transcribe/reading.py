"""Recordings from files, folders and standard input."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from depthup.errors import UserError

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
"""What counts as a recording in a folder; a file named outright may have any name."""


def expand(paths: Iterable[str | Path]) -> Iterator[str | Path]:
    """The paths, with the recordings below each folder, sorted, in its place."""
    for path in paths:
        if str(path) != "-" and Path(path).is_dir():
            found: list[Path] = sorted(
                p for p in Path(path).rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file()
            )
            # An empty folder stays in the list and is reported like a bad file.
            yield from found or (path,)
        else:
            yield path


def read(path: str | Path, sampling_rate: int) -> np.ndarray:
    """The samples of a file, or with `-` of standard input, as `read_audio_file` gives them. Raises UserError."""
    if str(path) == "-":
        return read_audio_file(io.BytesIO(sys.stdin.buffer.read()), sampling_rate)
    if Path(path).is_dir():
        raise UserError(f"{path}: no recordings in this folder; known suffixes are {' '.join(sorted(AUDIO_SUFFIXES))}")
    return read_audio_file(path, sampling_rate)


def read_audio_file(source: str | Path | BinaryIO, sampling_rate: int) -> np.ndarray:
    """Read a recording in any format, rate and channel count that soundfile knows.

    Returns float32 [samples], mono at `sampling_rate`. Raises UserError if it is missing, unreadable, empty or not
    finite.
    """
    name = str(source) if isinstance(source, (str, Path)) else "standard input"
    if isinstance(source, (str, Path)) and not Path(source).is_file():
        raise UserError(f"{name}: no such audio file; check the path")
    try:
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        reason = str(error).rpartition(": ")[2].strip().rstrip(".")
        raise UserError(f"{name}: cannot be read as audio ({reason}); convert it to WAV or FLAC") from error
    if len(samples) == 0:
        raise UserError(f"{name}: has no samples; remove it or record it again")
    if not np.isfinite(samples).all():
        raise UserError(f"{name}: has samples that are NaN or infinite; export it again")
    mono = samples.mean(axis=1, dtype=np.float32)
    if rate != sampling_rate:
        mono = soxr.resample(mono, rate, sampling_rate)
    if len(mono) == 0:
        raise UserError(f"{name}: is too short, {len(samples)} samples at {rate} Hz; remove it or record it again")
    return mono
