"""What a training step costs, and transcription: seconds, memory. Random weights, no recordings.

    python benchmarks/costs.py recipes/paper/smollm2-360m/{full,e_branchformer}.yaml --seconds 240 --clip 8
    python benchmarks/costs.py recipes/fsdd.yaml --methods all --seconds 20 --clip 1 --steps 3
    python benchmarks/costs.py recipes/smollm2-1.7b/12gb.yaml --methods e_branchformer-speech --seconds 30 --clip 10

Each recipe as it stands, or with `--methods` with those methods of `depthup sweep` in place of its own, each one in a
process of its own. A Markdown table at the end. The share of the matrix rate is that of all operations of a step,
recomputed ones included. Transcription is of one full batch, from features on, each clip answered with as many tokens
as English of its length has.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from report import apart, full_batch, now, save
from torch.utils.flop_counter import FlopCounterMode

from depthup.api import default_device
from depthup.config import Recipe
from depthup.model.base import resolve_dtype
from depthup.model.cpu_kernels import fast_kernels
from depthup.model.speech_lm import SpeechLM
from depthup.planning.hardware import matmul_tflops
from depthup.recipe import load_recipe
from depthup.sweep import METHODS, REPLAY
from depthup.train.progress import peak_memory_gb
from depthup.transcribe.decoding import decode
from depthup.transcribe.options import default_batch_seconds

OWN = "own"
"""The method of a recipe itself."""
FAILURES = (torch.OutOfMemoryError, BrokenProcessPool)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--methods", default=OWN, help=f"comma-separated, {OWN} or all of: {', '.join(METHODS)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="audio in a batch")
    parser.add_argument("--clip", type=float, default=6.0, help="seconds of a clip")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options, overrides = parser.parse_known_args()
    methods = [name for name in METHODS if not name.endswith(REPLAY)] if options.methods == "all" else None
    rows: list[dict[str, Any]] = []
    for path in options.recipes:
        for method in methods or options.methods.split(","):
            name = Path(path).stem if method == OWN else method
            try:
                rows.append({"method": name, **apart(measure, path, method, options, overrides)})
            except FAILURES as error:
                print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
                rows.append({"method": name, "failed": type(error).__name__})
            save(options.json, rows)
    print(table(rows))
    return 0


def measure(path: str, method: str, options: argparse.Namespace, overrides: list[str]) -> dict[str, object]:
    """Median seconds of a step (forward and backward for each accumulated batch, and AdamW), and the peak memory.

    The first step is not timed. On a GPU the peak is the GPU's; else the process's, with building the model.
    """
    recipe = load_recipe(path, [*overrides, *METHODS.get(method, ())])
    device, dtype = default_device(), resolve_dtype(recipe.dtype)
    rate = 1e12 * matmul_tflops(4096 if device.type == "cuda" else 2048, device=device, dtype=dtype)
    with device:  # where random numbers are made fastest
        model = SpeechLM.from_recipe(recipe, load_weights=False)
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    model.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    counter, seconds, step = FlopCounterMode(display=False), [], 0

    def kernels() -> AbstractContextManager:
        return fast_kernels(device) if step else nullcontext()  # the counter knows no products of oneDNN's

    if recipe.train.gradient_checkpointing:
        model.recompute_activations(kernels)
    batch = full_batch(model, recipe, options.seconds, options.clip)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    for step in range(options.steps + 1):
        began = now()
        for _ in range(recipe.train.gradient_accumulation_steps):
            with kernels() if step else counter:
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    loss = model(**batch).loss
                loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(now() - began)
    summary, taken = model.summary(), median(seconds[1:])
    found = {
        "total": summary.total,
        "trainable": summary.trainable,
        "share_of_full": summary.share_of_full,
        "step_seconds": taken,
        "share_of_matrix_rate": counter.get_total_flops() / taken / rate,
        "audio_seconds": options.seconds * recipe.train.gradient_accumulation_steps,
        "tokens": batch["input_ids"].numel(),
        "peak_memory_gb": peak_memory_gb(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    del optimizer
    return {**found, "times_real_time": times_real_time(model.to(dtype).eval(), recipe, options.clip, options.steps)}


def times_real_time(model: SpeechLM, recipe: Recipe, clip: float, repeats: int) -> float:
    """Seconds of audio in a batch, over the seconds it takes to answer it token by token."""
    audio = max(clip, default_batch_seconds(model))
    batch = full_batch(model, recipe, audio, clip)
    labels = batch.pop("labels")
    answer = int((labels[0] != -100).sum())
    for name in ("input_ids", "attention_mask"):
        batch[name] = batch[name][:, :-answer]
    model.generation_config.eos_token_id = -1  # random weights would end where they like
    seconds = []
    for _ in range(repeats + 1):
        began = now()
        with fast_kernels(model.device):
            decode(model, batch, [answer] * len(labels), None, ())
        seconds.append(now() - began)
    return len(labels) * clip / median(seconds[1:])


def table(rows: list[dict]) -> str:
    """The rows as Markdown, step time and memory also relative to `full`."""
    full = next((row for row in rows if row["method"] == "full" and "failed" not in row), None)
    lines = [
        "| method | trainable | of full | s per step | of full's | h audio/h | share of matrix rate "
        "| peak GB | of full's | transcription, times real time |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['method']} | {row['failed']} |" + " – |" * 8)
            continue
        relative = [f"{row[k] / full[k]:.2f}" if full else "–" for k in ("step_seconds", "peak_memory_gb")]
        lines.append(
            f"| {row['method']} | {row['trainable']:,} | {row['share_of_full']:.1%} | {row['step_seconds']:.3f} | "
            f"{relative[0]} | {row['audio_seconds'] / row['step_seconds']:.0f} | {row['share_of_matrix_rate']:.0%} | "
            f"{row['peak_memory_gb']:.2f} | {relative[1]} | {row['times_real_time']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
