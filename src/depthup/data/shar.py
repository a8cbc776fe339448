"""Shards of Lhotse's Shar format, on a disk, in object storage or behind a command: their clips in any order."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import Recording
from lhotse.cut import Cut
from lhotse.serialization import open_best
from lhotse.utils import is_module_available, is_valid_url

from depthup.data.shard_index import (
    CLIP,
    COMMAND,
    INDEX,
    cached_path,
    fetch_index,
    index_shard,
    joined,
    map_index,
    read_cut,
    read_data,
    write_index,
)
from depthup.errors import UserError

log = logging.getLogger("depthup")

# What `depthup data` writes: a plain Shar directory, and beside it what is known about it, written last.
SHARDS = "shards"
MANIFEST = "manifest.json"
PARTIAL = ".partial"
TOKENS, TOKENIZER = "tokens", "tokenizer"
"""Of a cut: ids [T, streams] instead of audio, and the hash of the speech tokenizer that made them."""
# Rows of an index that are looked at together.
ROWS = 1_000_000


@dataclass(frozen=True)
class Shard:
    """Where a shard's cuts are, and the tar with their audio or tokens if it has one."""

    cuts: str
    tar: str | None


@dataclass(frozen=True)
class ShardCuts:
    """The clips of shards by number, from the first shard's first; only asking for one's cut reads its audio.

    A cut holds the encoded bytes of its clip, or its tokens (`TOKENS`). Where a shard turns out to be damaged, what
    cannot be read of it is left out; the shard is named in the log once and kept in `damaged`. With `strict` it raises
    `UserError`. `check` sees every cut and may raise too.
    """

    shards: tuple[Shard, ...]
    check: Callable[[Cut], Cut]
    strict: bool
    open_index: Callable[[ShardCuts], np.ndarray]
    tokenizer: str | None = None
    """Hash of the speech tokenizer, where the shards hold tokens."""
    damaged: dict[str, str] = field(default_factory=dict, compare=False)
    reader: object = field(default_factory=object, compare=False)
    """Its own: files may be others when they are opened again."""

    def __iter__(self) -> Iterator[Cut]:
        for number in range(len(self.index)):
            if (cut := self.cut(number)) is not None:
                yield cut

    def num_clips(self) -> int:
        """Clips in all shards."""
        return len(self.index)

    def clips(self) -> ShardCuts:
        """Itself."""
        return self

    def fingerprint(self) -> str:
        """Of where each clip stands and how long it is."""
        digest = hashlib.sha256()
        for first in range(0, len(self.index), ROWS):
            digest.update(np.ascontiguousarray(self.index[first : first + ROWS]).tobytes())
        return digest.hexdigest()

    @cached_property
    def index(self) -> np.ndarray:
        """Rows [clips] of `shard_index.CLIP`."""
        return self.open_index(self)

    @property
    def seconds(self) -> np.ndarray:
        """Duration [clips] of each clip."""
        return self.index["seconds"]

    @cached_property
    def shard_sizes(self) -> np.ndarray:
        """Clips [shards] of each shard."""
        sizes = np.zeros(len(self.shards), np.int64)
        for first in range(0, len(self.index), ROWS):
            sizes += np.bincount(self.index["shard"][first : first + ROWS], minlength=len(sizes))
        return sizes

    @cached_property
    def _first(self) -> np.ndarray:
        """Number [shards] of each shard's first clip."""
        return np.cumsum(self.shard_sizes) - self.shard_sizes

    def cut(self, number: int) -> Cut | None:
        """A clip with its audio; None where its shard is damaged."""
        row = self.index[number]
        shard = self.shards[row["shard"]]
        try:
            cut: Any = read_cut(self.reader, shard.cuts, number - self._first[row["shard"]])
            if shard.tar:
                found = read_data(self.reader, shard.tar, cut.id, int(row["offset"]), int(row["bytes"]))
                if isinstance(found, Recording):
                    cut.recording = found
                elif found is not None:
                    cut.custom = {**(cut.custom or {}), TOKENS: found, TOKENIZER: self.tokenizer}
        except Exception as error:  # Lhotse's many readers share no exception type.
            self.tell(shard, _reason(error))
            return None
        return self.check(cut)

    def tell(self, shard: Shard, reason: str) -> None:
        """Name a damaged shard, once. Raises UserError if strict."""
        line = f"{shard.tar or shard.cuts}: the shard is damaged ({reason}); copy or write it again"
        if self.strict:
            raise UserError(line)
        if shard.cuts not in self.damaged:
            self.damaged[shard.cuts] = reason
            log.warning("skipped clips of a shard (number %d): %s", len(self.damaged), line)


def is_shar(source: str) -> bool:
    """Whether a source is a Shar directory, one that `depthup data` wrote, or at a URL or behind a command."""
    path = Path(source).expanduser()
    return is_remote(source) or (path.is_dir() and ((path / SHARDS).is_dir() or any(path.glob("cuts.*.jsonl*"))))


def is_remote(source: str) -> bool:
    return source.startswith(COMMAND) or is_valid_url(source)


def tokenizer_of(source: str) -> dict[str, Any] | None:
    """The configuration of the speech tokenizer whose tokens a source holds; None where it holds none."""
    path = Path(source).expanduser()
    if not is_remote(source) and not (path / SHARDS).is_dir():
        return None
    return read_manifest(source.rstrip("/") if is_remote(source) else str(path)).get(TOKENIZER)


def open_shar(source: str, check: Callable[[Cut], Cut], strict: bool) -> ShardCuts:
    """The cuts of a Shar directory, or of what `depthup data` wrote, which may also be remote.

    Remote is a URL (`s3://bucket/dir`, `https://...`: anything `smart_open` reads), or a command that writes the file
    whose name stands for `{}`: `pipe:ssh host cat dir/{}`. Raises UserError.
    """
    path = Path(source).expanduser()
    if is_remote(source) or (path / SHARDS).is_dir():
        root = source.rstrip("/") if is_remote(source) else str(path)
        return _open_written(root, check, strict)
    cuts, recordings = sorted(path.glob("cuts.*.jsonl*")), sorted(path.glob("recording.*.tar*"))
    if any(path.glob(f"{TOKENS}.*.tar*")):
        raise UserError(f"{path}: holds speech tokens; give the folder above, whose {MANIFEST} says of which tokenizer")
    if len(recordings) not in (0, len(cuts)):
        raise UserError(f"{path}: {len(cuts)} cut shards but {len(recordings)} recording shards; copy the rest")
    tars: list[str | None] = [str(recording) for recording in recordings] or [None] * len(cuts)
    shards = tuple(Shard(str(one), tar) for one, tar in zip(cuts, tars, strict=True))
    return ShardCuts(shards, check, strict, _derived_index)


def _open_written(root: str, check: Callable[[Cut], Cut], strict: bool) -> ShardCuts:
    manifest = read_manifest(root)
    tokenizer = (manifest.get(TOKENIZER) or {}).get("hash")
    names = [shard_files(entry["number"], tokenizer is not None) for entry in manifest["shards"]]
    shards = tuple(Shard(_locate(root, f"{SHARDS}/{cuts}"), _locate(root, f"{SHARDS}/{tar}")) for tar, cuts in names)
    return ShardCuts(shards, check, strict, partial(_written_index, root, manifest["index"]["sha256"]), tokenizer)


def _written_index(root: str, checksum: str, cuts: ShardCuts) -> np.ndarray:
    where = _locate(root, INDEX)
    try:
        return fetch_index(where, checksum) if is_remote(root) else map_index(Path(where))
    except UserError:
        raise
    except Exception as error:  # as many kinds as there are kinds of storage
        raise UserError(
            f"{where}: cannot read the index of the shards ({_reason(error)}); copy it again, or run the same "
            "`depthup data` command again"
        ) from error


def _derived_index(cuts: ShardCuts) -> np.ndarray:
    """Of shards that came without one: made once, and kept until one of their files changes."""
    paths = [Path(path).resolve() for shard in cuts.shards for path in (shard.cuts, shard.tar) if path]
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    kept = cached_path(hashlib.sha256(json.dumps(files).encode()).hexdigest())
    if not kept.is_file():
        pieces = []
        for shard in cuts.shards:
            try:
                pieces.append(index_shard(shard.cuts, shard.tar))
            except Exception as error:  # Lhotse's many readers share no exception type.
                cuts.tell(shard, _reason(error))
                pieces.append(np.zeros(0, CLIP))
        if cuts.damaged:
            return joined(pieces)  # not kept, so that what is missing is named the next time too
        write_index(kept, pieces)
    return map_index(kept)


def shard_files(number: int, tokens: bool = False) -> tuple[str, str]:
    """Names of a shard's audio, or tokens, and cuts, as Lhotse's own writer gives them."""
    return f"{TOKENS if tokens else 'recording'}.{number:06d}.tar", f"cuts.{number:06d}.jsonl.gz"


def read_manifest(root: str) -> dict[str, Any]:
    """The `manifest.json` of what `depthup data` wrote to a directory. Raises UserError."""
    where = _locate(root, MANIFEST)
    if not is_remote(root) and not Path(where).is_file():
        partial = (Path(root) / PARTIAL).is_dir()
        what = "unfinished; run the same `depthup data` command again" if partial else "not there; copy it too"
        raise UserError(f"{where}: {what}")
    try:
        with open_best(where, "r") as file:
            manifest = json.load(file)
        if "shards" not in manifest:
            raise ValueError("it is the manifest of something else")
        if "index" not in manifest:
            raise ValueError(f"these shards have no index; give {root}/{SHARDS} instead, or write them again")
        return manifest
    except Exception as error:  # as many kinds as there are kinds of storage
        missing = is_valid_url(root) and not is_module_available("smart_open")
        hint = "; a URL needs `pip install smart_open`, `smart_open[s3]` for S3" if missing else ""
        raise UserError(f"{where}: no manifest of shards can be read there ({_reason(error)}){hint}") from error


def _reason(error: BaseException) -> str:
    # Lhotse asks for smart_open whatever is wrong with a URL.
    if error.__context__ and str(error).startswith("Error trying to open what seems to be a URI"):
        error = error.__context__
    return " ".join(str(error).split())[:200] or type(error).__name__


def _locate(root: str, name: str) -> str:
    if not root.startswith(COMMAND):
        return f"{root}/{name}"
    command = root.replace("{}", name) if "{}" in root else f"{root}/{name}"
    return f"{command} | gunzip -c" if name.endswith(".gz") else command  # Lhotse unpacks no gzip of a command's
