"""Start-up: `import depthup`, `depthup --help`, and from `depthup transcribe` to its first word.

python benchmarks/startup.py runs/fsdd ../shared/speech/fsdd/test.jsonl
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from report import save

from depthup.config import DataConfig
from depthup.data import load_cuts
from depthup.data.audio import audio_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("manifest", help="its first clip is transcribed")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    clip = audio_file(next(iter(load_cuts(options.manifest, DataConfig()))))
    depthup = [sys.executable, "-m", "depthup.cli"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import depthup": [sys.executable, "-c", "import depthup"],
        "depthup --help": [*depthup, "--help"],
        "import torch and transformers' Llama": [
            sys.executable,
            "-c",
            "import torch; from transformers import LlamaForCausalLM",
        ],
        "depthup transcribe, to its first word": [*depthup, "transcribe", options.checkpoint, str(clip)],
    }
    rows = []
    print("| | s |\n|---|---:|")
    for name, command in commands.items():
        rows.append({"what": name, "seconds": median(first_output(command) for _ in range(options.repeat))})
        print(f"| {name} | {rows[-1]['seconds']:.2f} |", flush=True)
    save(options.json, rows)


def first_output(command: list[str]) -> float:
    """Seconds until a command first prints, or ends."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        taken = time.perf_counter() - began
        process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return taken


if __name__ == "__main__":
    main()
