"""A training step on recordings of mixed length: ours against what neighbours do, in turn, in one run.

    python benchmarks/training.py benchmarks/prompts.yaml --methods lora,full,e_branchformer-speech --steps 6

The neighbour is the same model with the same weights training, but with clips in random order, padded to the longest of
their batch, and logits at every position, as the Hugging Face Trainer (with PEFT for LoRA) and a usual collator do. It
gets as many clips per batch as ours has on average. Speech seconds per second is what counts; padding is no speech.
CTC is off: neighbours have none. The matrix rate is that of products of the machine's favourite size, measured first.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from report import WITHOUT_CTC, apart, now, save
from torch.utils.flop_counter import FlopCounterMode

from depthup.api import default_device
from depthup.data import BatchStream, load_cuts, read_audio
from depthup.model.base import resolve_dtype
from depthup.model.cpu_kernels import fast_kernels
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.planning.hardware import matmul_tflops
from depthup.recipe import load_recipe
from depthup.sweep import METHODS
from depthup.train.progress import peak_memory_gb

DEFAULT = "full,lora,transformer-all,transformer-speech,e_branchformer-all,e_branchformer-speech"

COLUMNS = (
    *("ours, s audio/s", "neighbour", "ratio", "ours, tokens/s", "neighbour", "padding, ours", "neighbour"),
    *("peak GB, ours", "neighbour", "share of matrix rate, ours"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--methods", default=DEFAULT)
    parser.add_argument("--steps", type=int, default=6, help="steps of each way")
    parser.add_argument("--json", type=Path)
    options, overrides = parser.parse_known_args()
    print(f"| method | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}", flush=True)
    rows = []
    for method in options.methods.split(","):
        rows.append(apart(measure, options.recipe, method, options.steps, overrides))
        print(line(rows[-1]), flush=True)
        save(options.json, rows)


def line(found: dict) -> str:
    ours, other = found["ours"], found["neighbour"]
    mine, theirs = (way["audio"] / way["seconds"] for way in (ours, other))
    cells = [f"{mine:.2f}", f"{theirs:.2f}", f"{mine / theirs:.2f}"]
    cells += [f"{way['tokens'] / way['seconds']:.0f}" for way in (ours, other)]
    cells += [f"{1 - way['tokens'] / way['positions']:.0%}" for way in (ours, other)]
    cells += [f"{way['peak_memory_gb']:.1f}" for way in (ours, other)]
    return f"| {found['method']} | {' | '.join(cells)} | {ours['flops'] / ours['seconds'] / found['matrix_rate']:.0%} |"


def measure(path: str, method: str, steps: int, overrides: list[str]) -> dict[str, Any]:
    """What `steps` steps of each way took, handled and computed, taken in turn after a warm-up."""
    recipe = load_recipe(path, [*overrides, *METHODS[method], *WITHOUT_CTC])
    torch.manual_seed(recipe.seed)
    device, dtype = default_device(), resolve_dtype(recipe.dtype)
    rate = 1e12 * matmul_tflops(4096 if device.type == "cuda" else 2048, device=device, dtype=dtype)
    model = SpeechLM.from_recipe(recipe).to(device).train()
    processor = SpeechProcessor.build(model.config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    cuts = load_cuts(recipe.data.train, recipe.data)
    ours = list(islice(BatchStream(cuts, processor, recipe.data, recipe.augment, recipe.seed), steps))
    clips = round(sum(len(batch["labels"]) for batch in ours) / len(ours))
    ways: dict[str, Any] = {
        "ours": (lambda batch: model(**batch).loss, ours, fast_kernels(device)),
        "neighbour": (
            lambda batch: loss_everywhere(model, batch),
            list(islice(random_batches(list(cuts), processor, clips), steps)),
            nullcontext(),
        ),
    }
    told: dict[str, dict[str, float]] = {name: {} for name in ways}
    for step in range(-1, steps):
        for name, (loss_of, batches, linears) in ways.items():
            batch = {key: value.to(device) for key, value in batches[max(step, 0)].items() if "ctc" not in key}
            audio = float(batch.pop("seconds"))
            counter = FlopCounterMode(display=False)  # which knows no products of oneDNN's
            with counter if step < 0 else linears:
                began = now()
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    loss = loss_of(batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                seconds = now() - began
            mask = batch["attention_mask"]
            if step < 0:  # warm-up, of ours first, so that each has its own peak
                told[name]["flops_per_position"] = counter.get_total_flops() / mask.numel()
                told[name]["peak_memory_gb"] = peak_memory_gb()
                continue
            handled = {"seconds": seconds, "audio": audio, "tokens": int(mask.sum()), "positions": mask.numel()}
            for what, value in handled.items():
                told[name][what] = told[name].get(what, 0.0) + value
    for way in told.values():
        way["flops"] = way["flops_per_position"] * way["positions"]
    return {"method": method, **told, "matrix_rate": rate}


def random_batches(cuts: list, processor: SpeechProcessor, clips: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of so many clips in random order, as a DataLoader with shuffle=True makes them."""
    rng = random.Random(0)
    while True:
        rng.shuffle(cuts)
        for first in range(0, len(cuts) - clips + 1, clips):
            chosen = cuts[first : first + clips]
            audio = [read_audio(cut, processor.sampling_rate) for cut in chosen]
            batch = processor.training_batch(audio, [cut.supervisions[0].text for cut in chosen])
            yield {**batch, "seconds": torch.tensor(sum(map(len, audio)) / processor.sampling_rate)}


def loss_everywhere(model: SpeechLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits at all positions first, then the loss over all of them with -100 ignored."""
    labels = batch["labels"]
    batch = {key: value for key, value in batch.items() if key != "labels"}
    logits = model(**batch, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


if __name__ == "__main__":
    main()
