"""The paper's comparison on data at hand: every method, one recipe, one report.

    python benchmarks/claims.py digits --speech ../shared/speech --text-data ../shared/text
    python benchmarks/claims.py voices --speech ../shared/speech --text-data ../shared/text --read novel.txt --hours 20

`digits`: real spoken digits, SmolLM2-135M, 2 CPU cores. `voices`: all English recordings there are, mixed with hours of
synthetic speech where there is text to read, for a GPU (benchmarks/gpu.py). Both end in OUT/compare.html, and the same
command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import save

from depthup.cli import main as depthup
from depthup.evaluate.results import load_results
from depthup.train.record import NAME as RECORD

HERE = Path(__file__).resolve().parent
VALIDATION_CLIPS = 200
CORPORA = {"digits": ("fsdd",), "voices": ("fsdd", "prompts-en", "speechocean", "commonvoice-en")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=CORPORA)
    parser.add_argument("--out", type=Path, help="default runs/claims-SIZE")
    parser.add_argument("--speech", type=Path, required=True, help="folder with fsdd/ and other corpora")
    parser.add_argument("--text-data", type=Path, required=True, help="folder with the text tasks and a text")
    parser.add_argument("--replay", nargs="*", default=[], help="plain text for the methods with replay")
    parser.add_argument("--read", type=Path, nargs="*", default=[], help="voices: text to be read aloud")
    parser.add_argument("--hours", type=float, default=20.0, help="voices: hours of synthetic speech")
    parser.add_argument("--workers", type=int, default=2, help="voices: processes that speak")
    parser.add_argument("--methods", default="", help="comma-separated; default all")
    parser.add_argument("--json", type=Path)
    options, more = parser.parse_known_args()
    out = options.out or Path("runs") / f"claims-{options.size}"
    out.mkdir(parents=True, exist_ok=True)
    corpora = [options.speech / name for name in CORPORA[options.size] if (options.speech / name).is_dir()]
    train, validation = map(list, zip(*(hold_out(corpus / "train.jsonl", out) for corpus in corpora), strict=True))
    tests = [corpus / "test.jsonl" for corpus in corpora]
    if options.read:
        spoken = out / "voices"
        command = [sys.executable, str(HERE / "voices.py"), str(spoken), "--hours", str(options.hours)]
        command += ["--workers", str(options.workers), "--text", *map(str, options.read)]
        subprocess.run(command, check=True)
        train.append(spoken / "train.jsonl")
        validation = [spoken / "validation.jsonl"]
        tests.append(spoken / "test.jsonl")
    words = ["sweep", str(HERE.parent / "recipes" / f"claims-{options.size}.yaml"), "--output_dir", str(out)]
    words += [f"--data.train={json.dumps([str(p) for p in train])}", f"--data.validation={validation[-1]}"]
    if options.replay:
        words.append(f"--replay.text={json.dumps(options.replay)}")
    for test in tests:
        words += ["--asr", str(test)]
    words += ["--methods", options.methods, "--by", "speaker", "--text", str(options.text_data / "wikitext2_test.txt")]
    words += ["--text-data", str(options.text_data)]
    words += ["--text-tasks", "piqa,arc_easy,openbookqa,copa,winogrande,lambada_openai"]
    status = depthup([*words, *more])
    runs = sorted(file.parent for file in out.glob("*/measured.json"))
    chosen = options.methods.split(",") if options.methods else [run.name for run in runs]
    save(options.json, [told(run) for run in runs if run.name in chosen])
    return status


def told(run: Path) -> dict[str, Any]:
    """What a finished run was, cost and reached."""
    return {"method": run.name, **json.loads((run / RECORD).read_text()), **load_results(run)}


def hold_out(manifest: Path, out: Path) -> tuple[Path, Path]:
    """Split a training manifest: the same clips every time for choosing learning rates, the rest for training."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines() if line.strip()]
    for row in rows:
        row["audio"] = str((manifest.parent / row["audio"]).resolve())
    random.Random(0).shuffle(rows)
    cut = min(VALIDATION_CLIPS, len(rows) // 10)
    paths = []
    for name, part in (("train", rows[cut:]), ("validation", rows[:cut])):
        path = out / f"{manifest.parent.name}-{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
        paths.append(path)
    return paths[0], paths[1]


if __name__ == "__main__":
    sys.exit(main())
