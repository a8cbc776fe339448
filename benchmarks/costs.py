"""What a training step of every method costs: parameters, seconds, memory. Random weights, no recordings.

    python benchmarks/costs.py recipes/smollm2-360m/e_branchformer.yaml --seconds 240 --clip 8
    python benchmarks/costs.py recipes/fsdd.yaml --seconds 20 --clip 1 --steps 3
    python benchmarks/costs.py recipes/smollm2-1.7b/12gb.yaml --methods e_branchformer-speech --seconds 30 --clip 10

Each method runs in a process of its own. One JSON line each on standard output, a Markdown table at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median

import torch
from report import now

from depthup.api import default_device
from depthup.model.base import resolve_dtype
from depthup.model.speech_lm import SpeechLM
from depthup.planning.assumptions import Assumptions
from depthup.planning.stand_in import speech_batch
from depthup.recipe import load_recipe
from depthup.sweep import METHODS, REPLAY
from depthup.train.progress import peak_memory_gb


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--methods", default=",".join(name for name in METHODS if not name.endswith(REPLAY)))
    parser.add_argument("--seconds", type=float, default=60.0, help="audio in a batch")
    parser.add_argument("--clip", type=float, default=6.0, help="seconds of a clip")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.one:
        print(json.dumps(measure(options, overrides)))
        return 0
    rows, failed = [], 0
    for name in options.methods.split(","):
        words = [sys.executable, __file__, options.recipe, "--one", "--methods", name, *overrides]
        words += ["--seconds", str(options.seconds), "--clip", str(options.clip), "--steps", str(options.steps)]
        result = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        if result.returncode:
            failed += 1
            continue
        rows.append(json.loads(result.stdout.strip().splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    return 1 if failed else 0


def measure(options: argparse.Namespace, overrides: list[str]) -> dict[str, object]:
    """Median seconds of a step (forward and backward for each accumulated batch, and AdamW), and the peak memory.

    The first step is not timed. On a GPU the peak is the GPU's; else the process's, with building the model.
    """
    (name,) = options.methods.split(",")
    recipe = load_recipe(options.recipe, [*overrides, *METHODS[name]])
    device, dtype = default_device(), resolve_dtype(recipe.dtype)
    model = SpeechLM.from_recipe(recipe, load_weights=False)
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    model.to(device).train()
    if recipe.train.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    recipe.data.batch_seconds, recipe.data.max_batch_clips = options.seconds, sys.maxsize
    planned, _ = speech_batch(model, recipe, Assumptions(clip_seconds=options.clip, padding=0.0), ctc=False)
    planned["input_features"] = torch.randn(planned["input_features"].shape)
    batch = {key: value.to(device) for key, value in planned.items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    seconds = []
    for _ in range(options.steps + 1):
        began = now()
        for _ in range(recipe.train.gradient_accumulation_steps):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = model(**batch).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(now() - began)
    plan = model.plan()
    return {
        "method": name,
        "total": plan.total,
        "trainable": plan.trainable,
        "share_of_full": plan.share_of_full,
        "step_seconds": median(seconds[1:]),
        "audio_seconds": options.seconds * recipe.train.gradient_accumulation_steps,
        "tokens": batch["input_ids"].numel(),
        "peak_memory_gb": peak_memory_gb(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }


def table(rows: list[dict]) -> str:
    """The rows as Markdown, step time and memory also relative to `full`."""
    full = next((row for row in rows if row["method"] == "full"), None)
    lines = [
        "| method | trainable | of full | s per step | of full's | h audio/h | peak GB | of full's |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        relative = [f"{row[k] / full[k]:.2f}" if full else "-" for k in ("step_seconds", "peak_memory_gb")]
        lines.append(
            f"| {row['method']} | {row['trainable']:,} | {row['share_of_full']:.1%} | {row['step_seconds']:.3f} | "
            f"{relative[0]} | {row['audio_seconds'] / row['step_seconds']:.0f} | {row['peak_memory_gb']:.2f} | "
            f"{relative[1]} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
