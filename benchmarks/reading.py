"""Memory and time to read a long recording: its peak over the samples that come out, in a process of its own.

python benchmarks/reading.py --minutes 60 --json runs/bench/reading.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RATE, HEARD = 48000, 16000
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


def make(path: Path, minutes: int) -> None:
    """Noise in stereo, some of it in both channels, in parts of a second."""
    rng = np.random.default_rng(0)
    second = (0.1 * rng.standard_normal((RATE, 2))).astype(np.float32)
    kind = {"ogg": "OGG", "mp3": "MP3"}.get(path.suffix[1:], path.suffix[1:].upper())
    with soundfile.SoundFile(path, "w", RATE, 2, FORMATS[path.suffix[1:]], format=kind) as file:
        for _ in range(minutes * 60):
            file.write(second)


def measured(path: str, whole: bool) -> dict[str, float]:
    """In MB and seconds, of this process."""
    from depthup.data.reader import AudioReader, read

    read(path, HEARD, duration=1.0)  # what is loaded once
    before, began = _status("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")
    samples = len(read(path, HEARD)[0]) if whole else sum(map(len, AudioReader(path, HEARD)))
    return {
        "peak_mb": _status("VmHWM") - before,
        "samples_mb": samples * 4 / 2**20,
        "seconds": time.perf_counter() - began,
    }


def _status(field: str) -> float:
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        path, how = options.one.rsplit(":", 1)
        print(json.dumps(measured(path, how == "whole")))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in options.formats:
            path = Path(folder) / f"long.{suffix}"
            make(path, options.minutes)
            for how in ("whole", "blocks"):
                words = [sys.executable, __file__, "--one", f"{path}:{how}"]
                told = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
                rows.append({"format": suffix, "read": how, "file_mb": path.stat().st_size / 2**20, **told})
                print(
                    "  ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items()),
                    flush=True,
                )
            path.unlink()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
