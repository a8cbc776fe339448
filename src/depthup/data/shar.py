"""Reading Lhotse Shar shards one after the other, from a disk, object storage or a command."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lhotse.cut import Cut
from lhotse.serialization import open_best
from lhotse.shar.readers import LazySharIterator
from lhotse.utils import is_module_available, is_valid_url

from depthup.errors import UserError

log = logging.getLogger("depthup")

# What `depthup data` writes: a plain Shar directory, and beside it what is known about it, written last.
SHARDS = "shards"
MANIFEST = "manifest.json"
PARTIAL = ".partial"
COMMAND = "pipe:"


@dataclass(frozen=True)
class Shard:
    """Where a shard's cuts and audio are, and how many clips it holds, where that is known."""

    cuts: str
    recording: str | None
    clips: int | None = None


@dataclass(frozen=True)
class ShardCuts:
    """The cuts of shards, streamed one shard at a time; each holds the encoded bytes of its clip.

    A shard that turns out to be damaged gives what comes before the damage, and is named in the log and kept in
    `damaged`; with `strict` it raises `UserError`. `check` sees every cut and may raise too.
    """

    shards: tuple[Shard, ...]
    check: Callable[[Cut], Cut]
    strict: bool
    damaged: dict[str, str] = field(default_factory=dict, compare=False)

    def __iter__(self) -> Iterator[Cut]:
        for shard in self.shards:
            yield from self._read(shard)

    def shuffled(self, seed: str) -> ShardCuts:
        """The same shards in an order of this seed's."""
        return replace(self, shards=tuple(random.Random(seed).sample(self.shards, len(self.shards))))

    def num_clips(self) -> int | None:
        """Clips in all shards; None where a shard's number is not known."""
        counts = [shard.clips for shard in self.shards if shard.clips is not None]
        return sum(counts) if len(counts) == len(self.shards) else None

    def _read(self, shard: Shard) -> Iterator[Cut]:
        fields: dict[str, Sequence[str | Path]] = {"cuts": [shard.cuts]}
        if shard.recording:
            fields["recording"] = [shard.recording]
        stream, count = iter(LazySharIterator(fields)), 0
        while True:
            try:
                cut = next(stream, None)
            except Exception as error:  # Lhotse's many readers share no exception type.
                self._tell(shard, _reason(error))
                return
            if cut is None:
                break
            count += 1
            yield self.check(cut)
        # A tar that ends between two clips looks whole to Lhotse.
        if shard.clips not in (None, count):
            self._tell(shard, f"{count} clips instead of {shard.clips}")

    def _tell(self, shard: Shard, reason: str) -> None:
        line = f"{shard.recording or shard.cuts}: the shard is damaged ({reason}); copy or write it again"
        if self.strict:
            raise UserError(line)
        if shard.cuts not in self.damaged:
            self.damaged[shard.cuts] = reason
            log.warning("skipped the rest of a shard (number %d): %s", len(self.damaged), line)


def is_shar(source: str) -> bool:
    """Whether a source is a Shar directory, one that `depthup data` wrote, or at a URL or behind a command."""
    path = Path(source).expanduser()
    return is_remote(source) or (path.is_dir() and ((path / SHARDS).is_dir() or any(path.glob("cuts.*.jsonl*"))))


def is_remote(source: str) -> bool:
    return source.startswith(COMMAND) or is_valid_url(source)


def open_shar(source: str, check: Callable[[Cut], Cut], strict: bool) -> ShardCuts:
    """The cuts of a Shar directory, or of what `depthup data` wrote, which may also be remote.

    Remote is a URL (`s3://bucket/dir`, `https://...`: anything `smart_open` reads), or a command that writes the file
    whose name stands for `{}`: `pipe:ssh host cat dir/{}`. Raises UserError.
    """
    path = Path(source).expanduser()
    if is_remote(source) or (path / SHARDS).is_dir():
        root = source.rstrip("/") if is_remote(source) else str(path)
        return ShardCuts(tuple(_listed_shards(root)), check, strict)
    cuts, recordings = sorted(path.glob("cuts.*.jsonl*")), sorted(path.glob("recording.*.tar*"))
    if len(recordings) not in (0, len(cuts)):
        raise UserError(f"{path}: {len(cuts)} cut shards but {len(recordings)} recording shards; copy the rest")
    tars: list[str | None] = [str(recording) for recording in recordings] or [None] * len(cuts)
    return ShardCuts(tuple(Shard(str(one), tar) for one, tar in zip(cuts, tars, strict=True)), check, strict)


def _listed_shards(root: str) -> Iterator[Shard]:
    for entry in read_manifest(root)["shards"]:
        recording, cuts = (_locate(root, f"{SHARDS}/{name}") for name in shard_files(entry["number"]))
        yield Shard(cuts, recording, entry["clips"])


def shard_files(number: int) -> tuple[str, str]:
    """Names of a shard's audio and cuts, as Lhotse's own writer gives them."""
    return f"recording.{number:06d}.tar", f"cuts.{number:06d}.jsonl.gz"


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
    # Lhotse unpacks no gzip of a command's, and knows a tar by how its name ends: here, that of a comment to the shell.
    return f"{command} | gunzip -c" if name.endswith(".gz") else f"{command} #.tar"
