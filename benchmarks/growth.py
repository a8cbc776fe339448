"""Does training slow down, or loading need more memory, when a manifest grows? The same model and recordings, in turn.

    python benchmarks/growth.py benchmarks/prompts.yaml --steps 8 --picture docs/growth.png

Writes manifests of 10, 100 and 1000 hours that repeat the recordings of `data.train`, opens all of them in one process,
and takes a step on a batch of each in turn, so that whatever disturbs the machine disturbs all alike.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from report import WITHOUT_CTC, now, save

from depthup.api import default_device
from depthup.config import Recipe
from depthup.data import BatchStream, load_cuts
from depthup.model.cpu_kernels import fast_kernels
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.recipe import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--hours", default="10,100,1000")
    parser.add_argument("--steps", type=int, default=8, help="training steps on each")
    parser.add_argument("--batches", type=int, default=40, help="batches of each that are loaded alone")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    options, overrides = parser.parse_known_args()
    recipe = load_recipe(options.recipe, [*overrides, *WITHOUT_CTC])
    torch.manual_seed(recipe.seed)
    model = SpeechLM.from_recipe(recipe).to(default_device()).train()
    processor = SpeechProcessor.build(model.config)
    with tempfile.TemporaryDirectory(prefix="depthup-growth-") as folder:
        rows, streams = [], []
        for hours in map(float, options.hours.split(",")):
            opened, stream = open_stream(recipe, processor, repeated(recipe.data.train, hours, Path(folder)))
            rows.append({"hours": hours, **opened})
            streams.append(stream)
        for row, seconds in zip(rows, loading(streams, options.batches), strict=True):
            row["load"] = seconds
        for row, seconds in zip(rows, training(model, streams, options.steps), strict=True):
            row["train"] = seconds
    print("| hours | clips | s to open | loader's MB | per s of audio: ms of loading | s of training | to the first |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['hours']:,.0f} | {row['clips']:,} | {row['open']:.1f} | {row['mb']:.0f} | {row['load'] * 1e3:.2f} "
            f"| {row['train']:.4f} | {row['train'] / rows[0]['train']:.3f} |"
        )
    if options.picture:
        draw(rows, options.picture)
    save(options.json, rows)


def repeated(manifest: str, hours: float, folder: Path) -> Path:
    """A manifest of so many hours that names the recordings of another again and again."""
    source = Path(manifest)
    clips = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    target, written = folder / f"{hours:g}.jsonl", 0.0
    with target.open("w", encoding="utf-8") as file:
        for number, clip in enumerate(cycle(clips)):
            if written >= hours * 3600:
                return target
            audio = str((source.parent / clip["audio"]).resolve())
            file.write(json.dumps({**clip, "audio": audio, "id": str(number)}) + "\n")
            written += clip["duration"]
    raise AssertionError("a cycle does not end")


def open_stream(recipe: Recipe, processor: SpeechProcessor, manifest: Path) -> tuple[dict[str, Any], Any]:
    """Time and memory that opening takes and keeps, and the stream, of which one batch has been taken."""
    before, began = anonymous_mb(), time.perf_counter()
    cuts = load_cuts(str(manifest), recipe.data)
    stream = iter(BatchStream(cuts, processor, recipe.data, recipe.augment, recipe.seed))
    next(stream)
    opened = {"open": time.perf_counter() - began, "mb": max(0.0, anonymous_mb() - before)}
    with manifest.open(encoding="utf-8") as file:
        return {**opened, "clips": sum(1 for _ in file)}, stream


def loading(streams: list[Any], batches: int) -> list[float]:
    """Seconds of loading per second of audio, of each stream."""
    taken, audio = [0.0] * len(streams), [0.0] * len(streams)
    for _ in range(batches):
        for i, stream in enumerate(streams):
            began = time.perf_counter()
            batch = next(stream)
            taken[i] += time.perf_counter() - began
            audio[i] += float(batch["seconds"])
    return [t / a for t, a in zip(taken, audio, strict=True)]


def training(model: SpeechLM, streams: list[Any], steps: int) -> list[float]:
    """Seconds of loading and training per second of audio, of each stream."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    taken, audio = [0.0] * len(streams), [0.0] * len(streams)
    for step in range(-1, steps):
        for i, stream in enumerate(streams):
            began = now()
            batch = next(stream)
            inputs = {k: v.to(model.device) for k, v in batch.items() if "ctc" not in k and k != "seconds"}
            with fast_kernels(model.device):
                model(**inputs).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step >= 0:  # the first of each is a warm-up
                taken[i] += now() - began
                audio[i] += float(batch["seconds"])
    return [t / a for t, a in zip(taken, audio, strict=True)]


def anonymous_mb() -> float:
    """Memory of this process that is no file's, in MB, as Linux tells."""
    words = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").split()
    return int(words[words.index("Anonymous:") + 1]) / 1024


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib import pyplot

    hours = [row["hours"] for row in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(hours, [row["train"] for row in rows], "o-", label="training, loading included")
    left.plot(hours, [row["load"] for row in rows], "s-", label="loading alone")
    left.set(ylabel="seconds per second of audio", ylim=(0, 1.5 * max(row["train"] for row in rows)))
    right.plot(hours, [row["mb"] for row in rows], "o-", label="what an open manifest keeps in memory")
    right.set(ylabel="MB", ylim=(0, max(100, 2 * rows[-1]["mb"])))
    for axis in (left, right):
        axis.set(xscale="log", xlabel="hours in the manifest")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
