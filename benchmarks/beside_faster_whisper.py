"""depthup beside faster-whisper on the same recordings: speed, memory, word error rate, text from what is no speech.

    python -m venv FW && FW/bin/pip install faster-whisper
    python benchmarks/beside_faster_whisper.py --checkpoint RUN --faster-whisper base --python FW/bin/python \\
        --manifest test.jsonl --clips 100 --minutes 10

faster-whisper needs a Python of its own, whose packages are not ours. Every way runs in a process of its own with
`--threads` threads: first the clips of the manifest one by one, then the same clips joined to one recording of
`--minutes`, half a second between them, then sounds without speech. A JSON line each on standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAYS = {
    "depthup, float32": {"tool": "depthup", "beam_size": 1},
    "depthup, float32, five beams": {"tool": "depthup", "beam_size": 5},
    "faster-whisper, float32, greedy": {"tool": "faster_whisper", "compute_type": "float32", "beam_size": 1},
    "faster-whisper, int8, greedy": {"tool": "faster_whisper", "compute_type": "int8", "beam_size": 1},
    "faster-whisper, float32, as it comes": {"tool": "faster_whisper", "compute_type": "float32", "beam_size": 5},
    "faster-whisper, int8, as it comes": {"tool": "faster_whisper", "compute_type": "int8", "beam_size": 5},
}
"""As it comes: five beams, and another try at a higher temperature where it finds its text unlikely."""


def depthup(model: str, way: dict[str, Any], threads: int) -> Callable[[str, bool], str]:
    """What writes down a file; the flag says whether voice activity is looked for."""
    import torch

    from depthup import api

    torch.set_num_threads(threads)
    loaded = api.load(model, device="cpu")
    beams = way["beam_size"]
    return lambda path, vad: api.transcribe(*loaded, path, vad="silero" if vad else "none", num_beams=beams).text


def faster_whisper(model: str, way: dict[str, Any], threads: int) -> Callable[[str, bool], str]:
    from faster_whisper import WhisperModel

    loaded = WhisperModel(model, device="cpu", compute_type=way["compute_type"], cpu_threads=threads)
    beams = way["beam_size"]
    plain: dict[str, Any] = {"temperature": 0.0} if beams == 1 else {}

    def transcribe(path: str, vad: bool) -> str:
        segments, _ = loaded.transcribe(path, language="en", beam_size=beams, vad_filter=vad, **plain)
        return " ".join(segment.text.strip() for segment in segments)

    return transcribe


def work(task: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: transcribe the task's groups of files and measure each group."""
    way = task["way"]
    transcribe = globals()[way["tool"]](task["model"], way, task["threads"])
    transcribe(task["groups"]["clips"]["files"][0], False)  # warm up
    told = {"gb_loaded": _peak_gb(), "groups": {}}
    for name, group in task["groups"].items():
        wall, cpu = time.perf_counter(), time.process_time()
        texts = [transcribe(path, group["vad"]) for path in group["files"]]
        told["groups"][name] = {
            "texts": texts,
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "peak_gb": _peak_gb(),
        }
    return told


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def groups_in(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The files that are heard, and the texts of the clips."""
    from itertools import islice

    import numpy as np
    import soundfile
    from sounds import RATE, recordings, without_speech

    clips = list(islice(recordings(options.manifest), options.clips))

    def written(name: str, samples: np.ndarray) -> str:
        soundfile.write(folder / f"{name}.wav", samples, RATE)
        return str(folder / f"{name}.wav")

    pause, joined, texts = np.zeros(RATE // 2, np.float32), [], []
    while sum(map(len, joined)) < 60 * options.minutes * RATE:
        samples, text = clips[len(texts) % len(clips)]
        joined += [samples, pause]
        texts.append(text)
    sounds = [
        written(f"{kind}-{n}", one)
        for kind, group in without_speech(options.manifest).items()
        for n, one in enumerate(group)
    ]
    found = {
        "clips": {"vad": False, "files": [written(f"clip-{n}", one) for n, (one, _) in enumerate(clips)]},
        "joined": {"vad": True, "files": [written("joined", np.concatenate(joined))]},
        "sounds": {"vad": False, "files": sounds},
        "sounds, voice activity looked for": {"vad": True, "files": sounds},
    }
    seconds = {name: sum(soundfile.info(file).duration for file in group["files"]) for name, group in found.items()}
    for name, group in found.items():
        group["audio_seconds"] = seconds[name]
    found["clips"]["said"], found["joined"]["said"] = [text for _, text in clips], [" ".join(texts)]
    return found, texts


def compared(name: str, told: dict[str, Any], groups: dict[str, Any]) -> list[dict[str, Any]]:
    from depthup.evaluate.scores import score

    rows = []
    for group, measured in told["groups"].items():
        texts, given = measured.pop("texts"), groups[group]
        row = {"way": name, "what": group, "audio_seconds": given["audio_seconds"], **measured}
        row["times_real_time"] = given["audio_seconds"] / measured["seconds"]
        if "said" in given:
            row["wer"] = score(given["said"], texts).wer
        else:
            row |= {"clips": len(texts), "with_text": sum(map(bool, texts)), "texts": sorted(filter(None, texts))[:5]}
        rows.append(row | {"gb_loaded": told["gb_loaded"]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint")
    parser.add_argument("--faster-whisper", default="base", help="its model: a name, or a directory of CTranslate2's")
    parser.add_argument("--python", default=sys.executable, help="the Python that faster-whisper is installed in")
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="ways whose name holds this")
    parser.add_argument("--no-sounds", action="store_true", help="leave out what is no speech")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(json.loads(options.work.read_text()))))
        return
    from report import save

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        groups, _ = groups_in(folder, options)
        groups = {name: group for name, group in groups.items() if "said" in group or not options.no_sounds}
        for name, way in WAYS.items():
            if options.only and options.only not in name:
                continue
            ours = way["tool"] == "depthup"
            model = options.checkpoint if ours else options.faster_whisper
            task = {"way": way, "model": model, "threads": options.threads, "groups": groups}
            (folder / "task.json").write_text(json.dumps(task))
            python = sys.executable if ours else options.python
            command = [python, __file__, "--work", str(folder / "task.json")]
            threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
            ran = subprocess.run(command, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True, check=True)
            rows += compared(name, json.loads(ran.stdout.splitlines()[-1]), groups)
            for row in rows[-len(groups) :]:
                print(json.dumps(row), flush=True)
    save(options.json, rows)


if __name__ == "__main__":
    main()
