"""Where each clip of shards stands and how long it lasts: all that planning needs, mapped into shared memory."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from io import BytesIO, UnsupportedOperation
from pathlib import Path
from typing import BinaryIO

import numpy as np
from lhotse import Recording
from lhotse.array import TemporalArray
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item, open_best
from lhotse.shar.readers.tar import TarIterator

from depthup import files

INDEX = "index.npy"
COMMAND = "pipe:"
CLIP = np.dtype([("seconds", "<f4"), ("shard", "<u4"), ("offset", "<u8"), ("bytes", "<u4")])
"""A row of an index: duration, shard, and which bytes of the shard's tar hold the clip (data and manifest)."""

CACHE = files.CACHE / "shards"
# Shards whose cuts a process keeps, and whose tars where they cannot be read in part.
RECENT = 64


def index_shard(cuts: str, tar: str | None) -> np.ndarray:
    """Rows [clips] of `CLIP` for one shard, from its cuts and the headers of its tar; `joined` numbers the shards."""
    with open_best(cuts, "r") as lines:
        seconds = [deserialize_item(json.loads(line)).duration for line in lines]
    spans = _spans(tar) if tar else [(0, 0)] * len(seconds)
    if len(spans) != len(seconds):
        raise ValueError(f"data of {len(spans)} clips instead of {len(seconds)}")
    rows = np.zeros(len(seconds), CLIP)
    rows["seconds"] = seconds
    rows["offset"], rows["bytes"] = np.array(spans, dtype=np.int64).reshape(-1, 2).T
    return rows


def joined(pieces: Iterable[np.ndarray]) -> np.ndarray:
    """The rows of all shards, given one shard after the other."""
    rows, sizes = [np.zeros(0, CLIP)], []
    for piece in pieces:
        rows.append(piece)
        sizes.append(len(piece))
    index = np.concatenate(rows)
    index["shard"] = np.repeat(np.arange(len(sizes)), sizes)
    return index


def write_index(path: Path, pieces: Iterable[np.ndarray]) -> None:
    """Write the rows of all shards, given one shard after the other."""
    with files.written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, joined(pieces))


def map_index(path: Path) -> np.ndarray:
    """The rows [clips] of an index, in memory that all processes of a machine share."""
    return np.load(path, mmap_mode="r")


def fetch_index(where: str, sha256: str) -> np.ndarray:
    """The index of remote shards, which is copied to this machine once."""
    path = cached_path(sha256)
    if not path.is_file():
        with files.written_whole(path) as partial, partial.open("wb") as file, open_best(where, "rb") as stream:
            shutil.copyfileobj(stream, file)
    return map_index(path)


def cached_path(name: str) -> Path:
    """Where an index is kept on this machine. Raises UserError where nothing can be."""
    with files.made(CACHE, files.OTHER_CACHE):
        pass
    return CACHE / f"{name}.npy"


def read_cut(reader: object, cuts: str, line: int) -> Cut:
    """Cut `line` of a shard, without its audio. What is read from a file is kept for the same `reader`."""
    return deserialize_item(json.loads(_lines(reader, cuts)[line]))


def read_data(reader: object, tar: str, name: str, offset: int, size: int) -> Recording | TemporalArray | None:
    """The recording of the cut `name` with its encoded audio, or its tokens; None where the shard holds none for it.

    Nothing but these bytes is read of a file or URL. Compressed tars, what a command writes, and URLs of servers that
    give whole files only are copied to a temporary file, which is kept for the same `reader`.
    """
    part = BytesIO(_part(reader, tar, offset, size))
    manifest, path = next(iter(TarIterator(part)))  # type: ignore[arg-type]  # it takes files too
    if str(path.parent / path.stem) != name:
        raise ValueError(f"{path} stands where {name} is expected")
    assert manifest is None or isinstance(manifest, (Recording, TemporalArray))
    return manifest


@lru_cache(maxsize=RECENT)
def _lines(reader: object, cuts: str) -> list[str]:
    with open_best(cuts, "r") as file:
        return list(file)


def _spans(tar: str) -> list[tuple[int, int]]:
    """First byte and length, headers included, of each pair of files (data, their manifest) in a tar."""
    with open_best(tar, "rb") as file, tarfile.open(fileobj=file, mode="r:") as members:
        bounds = [member.offset for member in members]
        bounds.append(members.offset)
    return [(bounds[i], bounds[i + 2] - bounds[i]) for i in range(0, len(bounds) - 2, 2)]


def _part(reader: object, tar: str, offset: int, size: int) -> bytes:
    if not (tar.startswith(COMMAND) or tar.endswith(".gz")):
        with (
            open_best(tar, "rb") as file,
            suppress(UnsupportedOperation),
        ):  # some servers give whole files only
            file.seek(offset)
            return file.read(size)
    # Not a copy of the process that this one was forked from: the two would move each other's place in it.
    copy = _copy(reader, tar, os.getpid())
    copy.seek(offset)
    return copy.read(size)


@lru_cache(maxsize=RECENT)
def _copy(reader: object, tar: str, process: int) -> BinaryIO:
    file = tempfile.TemporaryFile(prefix="depthup-")  # noqa: SIM115  # open until it is forgotten
    with open_best(tar, "rb") as stream:
        shutil.copyfileobj(stream, file)
    return file  # type: ignore[return-value]  # a wrapper of one on some systems
