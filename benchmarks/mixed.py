"""Recordings of mixed lengths, made from short ones: neighbours in a manifest joined, with pauses between them.

    python benchmarks/mixed.py quickstart/corpus runs/mixed/corpus

Writes a FLAC file for each 1 to `--most` clips, and the manifest, for `train.jsonl` and `test.jsonl` of a folder.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

PAUSE_SECONDS = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--most", type=int, default=8, help="clips in a recording")
    options = parser.parse_args()
    for split in ("train", "test"):
        manifest = options.corpus / f"{split}.jsonl"
        clips = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        (options.output / split).mkdir(parents=True, exist_ok=True)
        rows = [
            joined(part, options.corpus, options.output, f"{split}/{number:05d}.flac")
            for number, part in enumerate(parts(clips, options.most))
        ]
        (options.output / manifest.name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{options.output / manifest.name}: {len(rows)} recordings of {rows and span(rows)}")


def parts(clips: list[dict[str, Any]], most: int) -> Iterator[list[dict[str, Any]]]:
    """Each clip once, 1 to `most` of them together."""
    rng, first = random.Random(0), 0
    while first < len(clips):
        count = rng.randint(1, most)
        yield clips[first : first + count]
        first += count


def joined(clips: list[dict[str, Any]], source: Path, target: Path, name: str) -> dict[str, Any]:
    """Write one recording and return its line of the manifest."""
    pieces: list[np.ndarray] = []
    for clip in clips:
        samples, rate = soundfile.read(source / clip["audio"], dtype="float32")
        pieces += [samples, np.zeros(round(PAUSE_SECONDS * rate), np.float32)]
    samples = np.concatenate(pieces[:-1])
    soundfile.write(target / name, samples, rate)
    text = " ".join(clip["text"] for clip in clips)
    return {"audio": name, "text": text, "duration": round(len(samples) / rate, 4)}


def span(rows: list[dict[str, Any]]) -> str:
    seconds = [row["duration"] for row in rows]
    return f"{min(seconds):.1f} to {max(seconds):.1f} s, {sum(seconds) / 60:.0f} minutes"


if __name__ == "__main__":
    main()
