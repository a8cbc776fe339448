"""Everything that waits for a GPU, in one command: the most valuable first, within a time, and on where it stopped.

    python benchmarks/gpu.py --minutes 25 --speech ../shared/speech --text-data ../shared/text --read novel.txt
    python benchmarks/gpu.py --small            # the same on a CPU, with tiny shapes
    python benchmarks/gpu.py --minutes 0 --doc docs/performance.md         # nothing but the table, into a document

OUT/gpu.json holds every number, OUT/gpu.md a table of all, OUT/logs what each step printed. A step that is done is not
done again; one that time cut off, or that failed, is tried again by the next call. Training takes `--base` and the
encoder of recipes/claims-voices.yaml, each method at the rate that docs/results.md found best, and needs --speech; the
comparison with ESPnet's layer needs --espnet, a folder as in benchmarks/e_branchformer.py.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

HERE = Path(__file__).resolve().parent
RECIPES = HERE.parent / "recipes" / "paper"
SIZES = ("360m", "1.7b")
PAPER = ("full", "lora", "transformer-interleaved", "e_branchformer")
"""What is timed of the paper; placements of layers cost the same."""
BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
"""Between them stands the table in a document."""
RATES = {
    "full": 3e-4,
    "lora": 1e-3,
    "lora-matched": 1e-3,
    "e_branchformer-all": 3e-4,
    "e_branchformer-speech": 3e-4,
    "transformer-all": 1e-3,
    "transformer-speech": 1e-3,
    "lora-speech-only": 1e-3,
    "e_branchformer-from_speech": 3e-4,
    "transformer-from_speech": 3e-4,
    "e_branchformer-speech+lora": 3e-4,
}
"""Methods in the order of training, and the learning rate of each."""
OURS = "e_branchformer-speech,e_branchformer-from_speech,transformer-speech,lora-speech-only"
"""What the paper does not have."""

SMALL = {
    "parity.py": "--methods e_branchformer-all --clips 2",
    "costs.py": "--seconds 8 --clip 4 --steps 1",
    "e_branchformer.py": "--shapes 1x10 --repeat 2",
    "packing.py": "--positions 512 --steps 2",
    "sharding.py": "--small --steps 2",
    "claims.py": "--hours 0.01 --train.max_steps 1",
    "decoding.py": "--limit 2",
}
LARGE = {"costs.py": "--seconds 240 --clip 12", "decoding.py": "--limit 200"}
"""Words that a script gets besides those of its step."""
DONE = "done"

Row = dict[str, Any]
Told = Callable[[Row], tuple[str, str]]
"""A row of a script -> its case and its result, in words."""


@dataclass(frozen=True)
class Step:
    """One script, which writes its rows to a file; `needs` says what is missing for it."""

    name: str
    words: tuple[str, ...]
    told: Told
    needs: Optional[str] = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/gpu"))
    add("--minutes", type=float, default=25.0, help="after them nothing is begun, and what runs is stopped")
    add("--small", action="store_true", help="tiny shapes, for a try on a CPU")
    add("--only", help="comma-separated names of steps")
    add("--doc", type=Path, help=f"also write the table into this document, between {BEGIN} and {END}")
    add("--espnet", help="folder with ESPnet, typeguard and humanfriendly")
    add("--speech", type=Path, help="folder with fsdd/ and other corpora")
    add("--text-data", type=Path, help="folder with the text tasks and a text")
    add("--read", type=Path, nargs="*", default=[], help="text to be read aloud, for hours of synthetic speech")
    add("--base", default="pypi:SmolLM2-135M-Instruct", help="base of the training runs")
    options = parser.parse_args()
    only = options.only.split(",") if options.only else None
    chosen = [step for step in steps(options) if only is None or step.name in only]
    found = run(chosen, options.out, 60 * options.minutes, options.small)
    text = table(steps(options), found)
    (options.out / "gpu.md").write_text(text, encoding="utf-8")
    if options.doc:
        include(text, options.doc)
    print(text)
    return 0


def steps(options: argparse.Namespace) -> list[Step]:
    """All steps in their order."""
    if options.small:
        sizes = {"small": [str(small_recipe(options.out))]}
    else:
        sizes = {name: [str(RECIPES / f"smollm2-{name}" / f"{method}.yaml") for method in PAPER] for name in SIZES}
    (layers,) = (path for path in next(iter(sizes.values())) if Path(path).stem == "e_branchformer")
    espnet = ("e_branchformer.py", "--espnet", str(options.espnet), "--dtype")
    missing = None if options.espnet else "--espnet FOLDER"
    return [
        Step("results", ("parity.py",), _parity),
        *(Step(f"{name}, the paper's", ("costs.py", *recipes), _cost) for name, recipes in sizes.items()),
        *(Step(f"ESPnet, {name}", (*espnet, name), _layer, missing) for name in ("bfloat16", "float32")),
        *(
            Step(f"{name}, ours", ("costs.py", *recipes[:1], "--methods", OURS), _cost)
            for name, recipes in sizes.items()
        ),
        Step("packing", ("packing.py", layers), _packing),
        Step("FSDP2", ("sharding.py", layers), _sharding),
        *_training(options),
    ]


def _training(options: argparse.Namespace) -> list[Step]:
    """A run of each method on real and synthetic speech, then the ways to transcribe with one of them."""
    runs, missing = options.out / "voices", None if options.speech and options.text_data else "--speech and --text-data"
    words = ["claims.py", "voices", f"--out={runs}", f"--speech={options.speech}", f"--text-data={options.text_data}"]
    words += [f"--base={options.base}", "--workers", str(os.cpu_count()), "--limit", "300"]
    words += ["--read", *map(str, options.read)] if options.read else []
    trained = [
        Step(f"train {name}", (*words, "--methods", name, "--rates", str(rate)), _run, missing)
        for name, rate in RATES.items()
    ]
    test = "" if missing else str(options.speech / "fsdd" / "test.jsonl")
    decoding = ("decoding.py", str(runs / "e_branchformer-speech"), test)
    return [*trained, Step("transcription", decoding, _decoding, missing)]


def small_recipe(out: Path) -> Path:
    """A recipe of a base too small for anything else."""
    folder = out.resolve() / "small"
    folder.mkdir(parents=True, exist_ok=True)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 300}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **shape, **heads}))
    recipe = folder / "e_branchformer.yaml"
    recipe.write_text("base: small\nconfigs: {small: config.json}\nupscale: {num_layers: 1}\n")
    return recipe


def run(chosen: Sequence[Step], out: Path, seconds: float, small: bool = False) -> dict[str, Row]:
    """Run what is not done, while there is time; what is known of each step by its name, kept in OUT/gpu.json."""
    (out / "logs").mkdir(parents=True, exist_ok=True)
    kept, deadline = out / "gpu.json", time.monotonic() + seconds
    found: dict[str, Row] = json.loads(kept.read_text()) if kept.is_file() else {}
    for step in chosen:
        if found.get(step.name, {}).get("status") == DONE or step.needs or time.monotonic() >= deadline:
            continue
        print(f"{step.name} ...", file=sys.stderr, flush=True)
        found[step.name] = _run_step(step, out, deadline, small)
        print(
            f"{step.name}: {found[step.name]['status']}, {found[step.name]['seconds']} s", file=sys.stderr, flush=True
        )
        kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _run_step(step: Step, out: Path, deadline: float, small: bool) -> Row:
    """Run a script in a group of processes of its own, which is stopped when the time is over."""
    name = step.name.replace(" ", "-").replace(",", "").replace("'", "")
    rows, log = out / f"{name}.json", out / "logs" / f"{name}.txt"
    rows.unlink(missing_ok=True)
    script, *words = step.words
    words += (SMALL if small else LARGE).get(script, "").split()
    began = time.monotonic()
    with log.open("wb") as output:
        command = [sys.executable, str(HERE / script), *words, "--json", str(rows)]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = DONE if process.wait(deadline - began) == 0 else _last_line(log)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = "cut off"
    told = json.loads(rows.read_text()) if rows.is_file() else {"rows": []}
    return {"status": status, "seconds": round(time.monotonic() - began), **told}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"failed: {lines[-1] if lines else 'without a word'}"


def table(listed: Sequence[Step], found: dict[str, Row]) -> str:
    """One line for each row of each step, as Markdown; a step without rows says why."""
    lines = ["| measured | case | result |", "|---|---|---|"]
    for step in listed:
        known = found.get(
            step.name, {"status": f"not measured: give {step.needs}" if step.needs else "not measured", "rows": []}
        )
        lines += [f"| {step.name} | {' | '.join(step.told(row))} |" for row in known["rows"]]
        if known["status"] != DONE:
            lines.append(f"| {step.name} | | {known['status']} |")
    devices = sorted({row["device"] for row in found.values() if "device" in row})
    return "\n".join([*lines, "", f"Device: {', '.join(devices) or 'none yet'}.", ""])


def include(text: str, document: Path) -> None:
    """Put the table between a document's marks. Raises ValueError where it has none."""
    told = document.read_text(encoding="utf-8")
    before, begin, rest = told.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{document}: has no {BEGIN} ... {END}")
    document.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")


def _parity(row: Row) -> tuple[str, str]:
    text = {True: "text is the base's", False: "TEXT IS NOT THE BASE'S", None: "text changes by design"}[row["text"]]
    errors = f"logits {row['logits']:.1e}, gradients {row['gradients']:.1e}, in bfloat16 {row['bfloat16']:.1e}"
    verdict = "as the CPU's" if row["fine"] else "NOT AS THE CPU'S"
    return row["method"], f"{verdict}: {errors}; same answers {row['answers']:.0%}; {text}"


def _cost(row: Row) -> tuple[str, str]:
    if "failed" in row:
        return row["method"], row["failed"]
    speed = f"{row['step_seconds']:.3f} s a step, {row['audio_seconds'] / row['step_seconds']:.0f} h audio/h"
    use = f"{row['share_of_matrix_rate']:.0%} of the matrix rate, {row['peak_memory_gb']:.1f} GB"
    trained = f"{row['trainable'] / 1e6:.1f} M trained ({row['share_of_full']:.0%} of full)"
    return row["method"], f"{speed}, {use}, {trained}; transcribes {row['times_real_time']:.0f} times real time"


def _layer(row: Row) -> tuple[str, str]:
    ours, theirs = sum(row["ours"]), sum(row["espnet"])
    return row["shape"], f"{theirs / ours:.2f} times ESPnet's speed ({ours:.2f} against {theirs:.2f} ms)"


def _packing(row: Row) -> tuple[str, str]:
    rate = f"{row['rate']:.0f} real positions a second, padding {row['padding']:.0%}"
    return row["way"], f"{rate}, {row['step_seconds']:.3f} s a step, {row['peak_memory_gb']:.1f} GB"


def _sharding(row: Row) -> tuple[str, str]:
    cost = f"{row['step_seconds']:.3f} s a step, {row['peak_memory_gb']:.1f} GB"
    return row["way"], f"{cost}; losses apart by {row['loss_difference']:.1e}"


def _run(row: Row) -> tuple[str, str]:
    heard = ", ".join(f"{name} {100 * told['wer']:.1f} %" for name, told in row["asr"].items())
    drift = ", ".join(f"{told['perplexity_base']:.2f} to {told['perplexity']:.2f}" for told in row["drift"].values())
    lost = [told["base"] - told["score"] for told in row["tasks"].values()]
    points = f"{100 * sum(lost) / len(lost):.1f} points lost on {len(lost)} text tasks" if lost else "no text tasks"
    steps = f"{row['steps']} steps at {row['learning_rate']:g}"
    heard_in = f"{row['audio_hours']:.1f} h heard in {row['wall_seconds']:.0f} s"
    return row["method"], f"WER {heard}; perplexity {drift}; {points}; {steps}, {heard_in}"


def _decoding(row: Row) -> tuple[str, str]:
    if "way" not in row:
        same = "all" if not any(row["texts_that_differ"].values()) else "NOT ALL"
        step = row["step"]
        return "texts", f"{same} the same; a step of one clip takes {step['ratio']:.2f} times the base's"
    return row["way"], f"real-time factor {row['rtf']:.4f}, {row['passes']} LLM passes"


if __name__ == "__main__":
    sys.exit(main())
