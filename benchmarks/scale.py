"""What planning batches costs, from 10 to 48,000 hours: time, memory, padding, balance between ranks. No audio.

    python benchmarks/scale.py                          # 10, 100, 1000 and 48000 hours, 64 ranks
    python benchmarks/scale.py --hours 1000 --ranks 8 --num-buckets 10

Shards are made up as `depthup data` would leave them (manifest.json, index.npy, cuts), without their audio, and removed
afterwards; the index and 64 ranks' plan are the real ones. Durations are about those of read speech
(`report.read_speech_seconds`). Cuts are written up to 1000 hours. Each number of hours runs in a process of its own. A
Markdown table on standard output.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource
from report import apart, read_speech_seconds

from depthup.config import AugmentConfig, DataConfig
from depthup.data import BatchStream
from depthup.data.mixing import Sources
from depthup.data.shar import open_shar, shard_files
from depthup.data.shard_index import joined, read_cut, write_index
from depthup.data.shard_writer import sha256

SHARD_CLIPS = 1000
MEAN_SECONDS = 11.5
FLAC_BYTES = 17_500  # of a second
HOURS_WITH_CUTS = 1000
WORKERS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", default="10,100,1000,48000")
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--batch-seconds", type=float, default=240.0)
    parser.add_argument("--num-buckets", type=int, default=DataConfig.num_buckets)
    options = parser.parse_args()
    rows, hours = [], [float(word) for word in options.hours.split(",")]
    for one in hours:
        with tempfile.TemporaryDirectory(prefix="depthup-scale-") as folder:
            write_shards(Path(folder), one)
            rows.append(apart(measure, folder, options))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print("| | " + " | ".join(f"{one:,.0f} h" for one in hours) + " |")
    print("|---" + "|---:" * len(rows) + "|")
    for name in rows[0]:
        print(f"| {name} | " + " | ".join(str(row[name]) for row in rows) + " |")


class PlannedStream(BatchStream):
    """The stream of batches, but for the audio in them: numbers of clips."""

    def _load(self, number: int, planned: Any, ahead: Any, plan: Any) -> Any:
        return planned[1]


def measure(folder: str, options: argparse.Namespace) -> dict[str, str]:
    """A column of the table; times in seconds of CPU."""
    data = DataConfig(batch_seconds=options.batch_seconds, num_buckets=options.num_buckets)
    before, began = own_mb("smaps_rollup", "Anonymous:"), time.process_time()
    source = open_shar(folder, lambda cut: cut, strict=True)

    def stream(rank: int = 0, ranks: int = 1) -> PlannedStream:
        processor: Any = SimpleNamespace(sampling_rate=16000)
        return PlannedStream(CutSet(Sources((source,))), processor, data, AugmentConfig(), 0, rank, ranks)

    next(iter(stream()))
    first = time.process_time() - began
    batches = sum(1 for _ in stream().bucketing.epoch(0, 0))
    planning = time.process_time() - began - first
    middle = stream(options.ranks - 1, options.ranks)
    middle.skip(batches // 2 // options.ranks)
    began = time.process_time()
    next(iter(middle))
    resuming = time.process_time() - began
    memory, peak = own_mb("smaps_rollup", "Anonymous:") - before, own_mb("status", "VmHWM:")
    audio, padded, seen = epoch(middle, source.seconds)
    own = reading(folder, source, islice(stream(0, options.ranks * WORKERS), batches // options.ranks // WORKERS))
    return {
        "clips": f"{len(seen):,}",
        "batches of an epoch": f"{batches:,}",
        "clips that come once in it": f"{(seen == 1).mean():.0%}",
        "s to open and to plan the first batch": f"{first:.2f}",
        "s to plan an epoch of all ranks": f"{planning:.2f}",
        "µs of planning per s of audio": f"{planning / audio.sum() * 1e6:.3f}",
        f"ms of planning per step of {options.ranks} ranks": f"{planning / batches * options.ranks * 1e3:.2f}",
        "µs to read the cuts of own batches per s of audio": own,
        "s to resume in mid-epoch": f"{resuming:.2f}",
        "MB of a loader's own memory for all this": f"{memory:.0f}",
        "MB of index, mapped and shared": f"{(Path(folder) / 'index.npy').stat().st_size / 2**20:.1f}",
        "peak MB, with Python's libraries and the index": f"{peak:.0f}",
        "padding, of all seconds": f"{1 - audio.sum() / padded.sum():.2%}",
        "`batch_seconds` used, padding included": f"{padded.mean() / options.batch_seconds:.1%}",
        "padded seconds of a step, mean/max over ranks": balance(padded, options.ranks),
        "audio seconds of a step, mean/max over ranks": balance(audio, options.ranks),
    }


def write_shards(folder: Path, hours: float) -> None:
    """Shards without audio."""
    seconds = read_speech_seconds(round(hours * 3600 / MEAN_SECONDS))
    pieces = np.array_split(seconds, np.arange(SHARD_CLIPS, len(seconds), SHARD_CLIPS))
    write_index(folder / "index.npy", map(shard_rows, pieces))
    index = {"sha256": sha256(folder / "index.npy"), "bytes": (folder / "index.npy").stat().st_size}
    manifest = {"index": index, "shards": [{"number": n, "clips": len(one)} for n, one in enumerate(pieces)]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "shards").mkdir()
    if hours <= HOURS_WITH_CUTS:
        for number, piece in enumerate(pieces):
            lines = "".join(line(f"{number}-{n}", float(one)) for n, one in enumerate(piece))
            (folder / "shards" / shard_files(number)[1]).write_bytes(gzip.compress(lines.encode(), 6))


def shard_rows(seconds: np.ndarray) -> np.ndarray:
    """What the index says of a shard whose clips last so many seconds [clips]."""
    rows = np.zeros(len(seconds), joined([]).dtype)
    rows["seconds"] = seconds
    rows["bytes"] = 512 * (4 + seconds * FLAC_BYTES // 512)
    rows["offset"] = np.cumsum(rows["bytes"], dtype=np.int64) - rows["bytes"]
    return rows


def line(name: str, seconds: float) -> str:
    """A cut as `depthup data` writes it, with so many words as are read in that time."""
    supervision = SupervisionSegment(name, name, 0.0, seconds, text="seven " * round(2.5 * seconds), speaker=name[:4])
    recording = Recording(name, [AudioSource("shar", [0], "")], 16000, round(16000 * seconds), seconds)
    cut = MonoCut(name, 0.0, seconds, 0, supervisions=[supervision], recording=recording)
    return json.dumps(cut.to_dict()) + "\n"


def epoch(stream: BatchStream, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds [batches] of audio and with padding, and how often each clip [clips] came."""
    audio, padded, seen = [], [], np.zeros(len(seconds), np.uint8)
    for clips in stream.bucketing.epoch(0, 0):
        lengths = seconds[clips]
        audio.append(lengths.sum())
        padded.append(lengths.max() * len(clips))
        seen[clips] += 1
    return np.array(audio, np.float64), np.array(padded, np.float64), seen


def balance(seconds: np.ndarray, ranks: int) -> str:
    """Share of the time in which ranks work, if each takes as long as its batch and waits for the longest."""
    steps = seconds[: len(seconds) // ranks * ranks].reshape(-1, ranks)
    return f"{steps.mean() / steps.max(axis=1).mean():.1%}" if len(steps) else "-"


def reading(folder: str, source: Any, batches: Iterator[np.ndarray]) -> str:
    """Time to read the cuts of a worker's own batches, audio not counted."""
    if not (Path(folder) / "shards" / shard_files(0)[1]).is_file():
        return "not measured"
    began, audio = time.process_time(), 0.0
    for clips in batches:
        for number in clips:
            audio += read_cut(
                source.reader, source.shards[number // SHARD_CLIPS].cuts, int(number % SHARD_CLIPS)
            ).duration
    return f"{(time.process_time() - began) / audio * 1e6:.1f}" if audio else "-"


def own_mb(file: str, name: str) -> float:
    """A size that Linux tells of this process, in MB."""
    words = Path("/proc/self", file).read_text().split()
    return int(words[words.index(name) + 1]) / 1024


if __name__ == "__main__":
    main()
