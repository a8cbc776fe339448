"""Any recordings into Lhotse Shar shards of 16-bit FLAC, or of speech tokens: in parallel, resumable, with checksums.

A directory of shards holds `shards/`, which Lhotse reads as it is (`CutSet.from_shar(in_dir=...)`), `index.npy`, by
which batches are planned (`shard_index.py`), and `manifest.json`, which is written last. Shard n is made by one process
from the clips `n * shard_clips` to `(n + 1) * shard_clips` of the sources and from nothing else, so that neither the
number of processes nor interruptions change a byte.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut

from depthup import files
from depthup.config import DataConfig
from depthup.data import tokens
from depthup.data.audio import NOMINAL_RATE
from depthup.data.cuts import FIRST_CLIPS, load_cuts
from depthup.data.mixing import Sources
from depthup.data.reader import RATES
from depthup.data.shar import MANIFEST, PARTIAL, SHARDS, TOKENIZER, is_remote, read_manifest, shard_files
from depthup.data.shard_index import INDEX, index_shard, write_index
from depthup.data.shard_writer import MOST_RATE, ShardWriter, Written
from depthup.data.transcripts import check_text
from depthup.data.workers import in_processes
from depthup.errors import UserError
from depthup.progress import ClipProgress

log = logging.getLogger("depthup")

SETTINGS = "settings.json"
# How many skipped clips the manifest names for each reason.
NAMED = 5


@dataclass(frozen=True)
class ShardSettings:
    """What decides the bytes of the shards; a directory holds those of one kind."""

    sources: list[list[str]]
    """Name and hash of each: of a file's contents, of names and sizes in a directory; empty for what is remote."""
    shard_clips: int
    sampling_rate: int
    audio_field: str
    text_field: str
    channel: str
    tokenizer: Optional[str] = None
    """Hash of a speech tokenizer, where its tokens are written instead of audio."""


def make_shards(
    sources: Union[str, Sequence[str]],
    output: Union[str, Path],
    data: Optional[DataConfig] = None,
    *,
    shard_clips: int = 1000,
    sampling_rate: int = 16000,
    num_workers: int = 0,
    tokenizer: Union[str, Path, None] = None,
) -> dict[str, Any]:
    """Turn sources into shards of mono FLAC, or of tokens, and return the manifest of what is in them.

    The same call goes on where an earlier one was stopped; it also writes again what is missing of a complete
    directory. Recordings must not change in between; of sources this is checked.

    Args:
        sources: what `load_cuts` reads, or several.
        output: directory of the shards: new, empty, or of the same sources and options.
        data: of which `audio_field`, `text_field` and `strict` matter; bad clips are skipped unless it is strict.
        shard_clips: clips per shard, bad ones counted.
        sampling_rate: in Hz; 0 keeps each clip's own.
        num_workers: processes that write, each with the clips of a shard in memory; 0 writes in this process.
        tokenizer: directory of a speech tokenizer, whose tokens are written in place of audio.

    Raises UserError.
    """
    data = data or DataConfig()
    if shard_clips < 1 or sampling_rate < 0 or num_workers < 0:
        raise UserError("data: --shard-clips must be positive, --sampling-rate and --num-workers not negative")
    if sampling_rate and not RATES[0] <= sampling_rate <= MOST_RATE:
        raise UserError(f"data: --sampling-rate must be from {RATES[0]} to {MOST_RATE} Hz, not {sampling_rate}")
    if tokenizer is not None and sampling_rate != NOMINAL_RATE:
        raise UserError(f"data: --sampling-rate {sampling_rate}: tokens are made at {NOMINAL_RATE} Hz; leave it out")
    told = tokens.describe(str(tokenizer)) if tokenizer is not None else None
    names, root = [sources] if isinstance(sources, str) else list(sources), Path(output)
    cuts = load_cuts(names, data, texts="unchecked")
    _check_texts(cuts, data.text_field)
    hashes, fields = [[n, _fingerprint(n, root)] for n in names], (data.audio_field, data.text_field, data.channel)
    settings = ShardSettings(hashes, shard_clips, sampling_rate, *fields, told["hash"] if told else None)
    if not root.exists():
        with files.made(root):
            pass
    with files.disk_guard(root), files.locked(root) if root.is_dir() else nullcontext():
        complete = _claim(root, settings)
        done = _complete_shards(root, complete) if complete else _finished_shards(root)
        if complete and len(done) == len(complete["shards"]) and not _damage((root / INDEX, complete["index"])):
            log.warning("%s: these shards are complete; nothing to do", root)
            manifest = complete
        else:
            place = None if tokenizer is None else str(tokenizer)
            write = ShardWriter(root, sampling_rate, data.text_field, data.strict, place)
            written = _write_missing(write, cuts, settings, done, num_workers)
            if complete:
                _check_repaired(root, complete, written)
            shards = done | written
            manifest = complete or _manifest(settings, [shards[number] for number in sorted(shards)])
            if told:
                manifest[TOKENIZER] = told
            manifest["index"] = _write_index(root, [entry["number"] for entry in manifest["shards"]], told is not None)
            files.write_json(root / MANIFEST, manifest)
        shutil.rmtree(root / PARTIAL)
    return manifest


def verify_shards(directory: Union[str, Path]) -> list[str]:
    """One line for each file of a directory of shards that is missing or damaged. Raises UserError."""
    root = Path(directory)
    kept = [
        (root / SHARDS / name, known)
        for shard in read_manifest(str(root))["shards"]
        for name, known in shard["files"].items()
    ]
    kept.append((root / INDEX, read_manifest(str(root))["index"]))
    with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
        return [line for line in pool.map(_damage, kept) if line]


def _damage(file: tuple[Path, dict[str, Any]]) -> str | None:
    path, known = file
    if not path.is_file():
        what = "is missing"
    elif path.stat().st_size != known["bytes"]:
        what = f"has {path.stat().st_size} bytes instead of {known['bytes']}"
    elif files.sha256(path) != known["sha256"]:
        what = "is damaged, its checksum is another"
    else:
        return None
    return f"{path}: {what}; remove it and run its `depthup data` command again, or copy it again"


def _check_texts(cuts: CutSet, field: str) -> None:
    """Nothing but clips without text at the beginning is a mistake in the command, not in the clips."""
    problems = []
    for cut in islice(cuts, FIRST_CLIPS):  # type: ignore[arg-type]  # Lhotse calls its iterator an iterable.
        try:
            check_text(cut.supervisions[0].text if cut.supervisions else None, cut.id, field)
            return
        except UserError as error:
            problems.append(error)
    raise problems[0]


def _fingerprint(source: str, output: Path) -> str:
    path = Path(source).expanduser()
    if is_remote(source):
        return ""
    if not path.exists():
        path = Path(source.partition(":")[0]).expanduser()  # a dataset directory with its split
    if path.is_file():
        return files.sha256(path)
    inside = [file for file in path.rglob("*") if file.is_file() and output not in file.parents]
    sizes = sorted((str(file.relative_to(path)), file.stat().st_size) for file in inside)
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest() if sizes else ""


def _claim(root: Path, settings: ShardSettings) -> dict[str, Any] | None:
    """Keep the settings beside the shards, or return the manifest of those that are complete; refuse anything else."""
    complete = read_manifest(str(root)) if (root / MANIFEST).is_file() else None
    kept = root / PARTIAL / SETTINGS
    if complete or kept.is_file():
        old = complete.get("settings") or complete["plan"] if complete else json.loads(kept.read_text())
        old = {"channel": "mix", **old}  # older ones knew no other, and called them a plan
        changed = [name for name, value in asdict(settings).items() if old.get(name) != value]
        if changed:
            raise UserError(f"{root}: holds shards made with other {', '.join(changed)}; choose another --output")
    elif root.is_file() or (root.is_dir() and any(path.name != PARTIAL for path in root.iterdir())):
        raise UserError(f"{root}: is not empty and holds no shards of depthup; choose another --output")
    kept.parent.mkdir(parents=True, exist_ok=True)
    files.clear(root)
    files.clear(kept.parent)
    files.write_json(kept, asdict(settings))
    (root / SHARDS).mkdir(exist_ok=True)
    return complete


def _complete_shards(root: Path, manifest: dict[str, Any]) -> dict[int, Written]:
    """Shards of a manifest whose files are there in full size."""
    shards = [Written(**shard) for shard in manifest["shards"]]
    return {shard.number: shard for shard in shards if _is_there(root, shard)}


def _finished_shards(root: Path) -> dict[int, Written]:
    """Shards that earlier calls have finished."""
    shards = [Written(**json.loads(kept.read_text())) for kept in (root / PARTIAL).glob("[0-9]*.json")]
    return {shard.number: shard for shard in shards if _is_there(root, shard)}


def _is_there(root: Path, shard: Written) -> bool:
    paths = {root / SHARDS / name: known["bytes"] for name, known in shard.files.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _write_missing(
    write: ShardWriter, cuts: CutSet, settings: ShardSettings, done: dict[int, Written], num_workers: int
) -> dict[int, Written]:
    written: dict[int, Written] = {}
    with ClipProgress(_num_clips(cuts)) as progress:

        def missing() -> Iterator[tuple[int, list[Cut]]]:
            clips = iter(cuts)  # type: ignore[call-overload]
            for number in count():
                chunk = list(islice(clips, settings.shard_clips))
                if not chunk:
                    return
                if number in done:
                    progress.had(len(chunk), done[number].seconds)
                else:
                    yield number, chunk

        for shard in in_processes(write, missing(), num_workers):
            written[shard.number] = shard
            for _, line in shard.skipped:
                log.warning("skipped a bad clip: %s", line)
            progress.did(shard.clips + len(shard.skipped), shard.seconds)
    return written


def _num_clips(cuts: CutSet) -> int | None:
    return cuts.data.num_clips() if isinstance(cuts.data, Sources) else None


def _write_index(root: Path, numbers: list[int], of_tokens: bool) -> dict[str, Any]:
    """Write the index of the shards with these numbers, and return its hash and size."""
    partial = root / PARTIAL / INDEX
    write_index(partial, (_rows(root, number, of_tokens) for number in numbers))
    known = {"sha256": files.sha256(partial), "bytes": partial.stat().st_size}
    files.move(partial, root / INDEX)
    return known


def _rows(root: Path, number: int, of_tokens: bool) -> np.ndarray:
    kept = root / PARTIAL / f"{number:06d}.npy"
    if kept.is_file():
        return np.load(kept)
    tar, cuts = (str(root / SHARDS / name) for name in shard_files(number, of_tokens))
    return index_shard(cuts, tar)


def _manifest(settings: ShardSettings, shards: list[Written]) -> dict[str, Any]:
    """All that is known of the shards; raises UserError where no clip is left."""
    speakers: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    skipped: dict[str, dict[str, Any]] = {}
    for shard in shards:
        speakers.update(shard.speakers)
        languages.update(shard.languages)  # type: ignore[arg-type]  # seconds
        for kind, line in shard.skipped:
            alike = skipped.setdefault(kind, {"clips": 0, "first": []})
            alike["clips"] += 1
            if alike["clips"] <= NAMED:
                alike["first"].append(line)
    clips, seconds = sum(shard.clips for shard in shards), sum(shard.seconds for shard in shards)
    if not clips:
        raise UserError(f"data: no usable clip; the first: {next(iter(skipped.values()))['first'][0]}")
    return {
        "clips": clips,
        "hours": round(seconds / 3600, 6),
        "speakers": dict(sorted(speakers.items())),
        "language_hours": {name: round(of / 3600, 6) for name, of in sorted(languages.items())},
        "clipped": sum(shard.clipped for shard in shards),
        "skipped": skipped,
        "settings": asdict(settings),
        "shards": [
            {"number": shard.number, "clips": shard.clips, "seconds": round(shard.seconds, 3), "files": shard.files}
            for shard in shards
            if shard.clips
        ],
    }


def _check_repaired(root: Path, manifest: dict[str, Any], written: dict[int, Written]) -> None:
    for entry in manifest["shards"]:
        shard = written.get(entry["number"])
        if shard and shard.files != entry["files"]:
            raise UserError(
                f"{root}: shard {shard.number}, written again, is not what {MANIFEST} says, so the recordings have "
                "changed; remove the directory and run the same again"
            )
