"""Recordings from files, folders and standard input."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Optional

import numpy as np

from depthup.data import reader
from depthup.data.decoders import SUFFIXES
from depthup.errors import UserError
from depthup.transcribe.options import Channel

log = logging.getLogger("depthup")


@dataclass
class Recording:
    """A name, and samples at the model's rate, mono, in blocks [samples]; reading them may raise UserError."""

    path: str
    blocks: Iterable[np.ndarray]
    channel: Optional[int] = None
    """Which channel of the file this is, where each is a recording of its own."""


def recordings_in(paths: Iterable[str | Path], sampling_rate: int, channel: Channel) -> Iterator[Recording]:
    """The recordings in files, folders (every one below, sorted) and `-` (standard input), opened when read."""
    for path in expand(paths):
        if channel == "each":
            yield from (Recording(str(path), _blocks(path, sampling_rate, n), n) for n in range(_channels(path)))
        else:
            yield Recording(str(path), _blocks(path, sampling_rate, channel))


def expand(paths: Iterable[str | Path]) -> Iterator[str | Path]:
    """The paths, with the recordings below each folder, sorted, in its place."""
    for path in paths:
        if str(path) != "-" and Path(path).is_dir():
            found: list[Path] = sorted(p for p in Path(path).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            # An empty folder stays in the list and is reported like a bad file.
            yield from found or (path,)
        else:
            yield path


def read_audio_file(source: str | Path | BinaryIO, sampling_rate: int) -> np.ndarray:
    """The samples of a recording, float32 [samples], mono at `sampling_rate`; what is odd about it goes to the log.

    Raises BadAudio, a UserError, if it is missing, unreadable, empty or has samples that are no sound.
    """
    samples, notes = reader.read(source, sampling_rate)
    for note in notes:
        log.warning("%s", note)
    return samples


def _channels(path: str | Path) -> int:
    """How many channels a file has; 1 where that cannot be known, which reading it will say."""
    if str(path) == "-":
        raise UserError("--channel each: standard input can be read only once; write it to a file first")
    try:
        return reader.describe(path).channels
    except UserError:
        return 1


def _blocks(path: str | Path, sampling_rate: int, channel: reader.Channel) -> Iterator[np.ndarray]:
    if str(path) != "-" and Path(path).is_dir():
        raise UserError(f"{path}: no recordings in this folder; known suffixes are {' '.join(sorted(SUFFIXES))}")
    piped = str(path) == "-"
    source, name = (sys.stdin.buffer, "standard input") if piped else (path, None)
    audio = reader.AudioReader(source, sampling_rate, channel=channel, name=name)
    some = False
    for block in audio:
        some = some or len(block) > 0
        yield block
    for note in audio.notes:
        log.warning("%s: %s", audio.name, note)
    if not some:
        raise reader.BadAudio(f"{audio.name}: has no samples; remove it or record it again")
