"""A training step on recordings of mixed length: ours against what neighbours do, in turn, in one run.

    python benchmarks/training.py recipes/prompts.yaml --methods lora,full,e_branchformer-speech --steps 6

The neighbour is the same model with the same weights training, but with clips in random order, padded to the longest of
their batch, and logits at every position, as the Hugging Face Trainer with a usual collator does. Both see the same
number of clips per batch. Speech seconds per second is what counts; padding is no speech.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F

from depthup.api import default_device
from depthup.data import BatchStream, load_cuts, read_audio
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.recipe import load_recipe
from depthup.sweep import METHODS
from depthup.train.progress import peak_memory_gb

DEFAULT = "full,lora,transformer-all,transformer-speech,e_branchformer-all,e_branchformer-speech"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--methods", default=DEFAULT)
    parser.add_argument("--steps", type=int, default=6, help="steps of each way")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.one:
        print(json.dumps(measure(options.recipe, options.methods, options.steps, overrides)))
        return 0
    print("| method | ours, s audio/s | neighbour, s audio/s | ratio | tokens/s | tokens/s | ratio | peak GB, ours |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    failed = 0
    for method in options.methods.split(","):
        words = [sys.executable, __file__, options.recipe, "--one", "--methods", method, "--steps", str(options.steps)]
        result = subprocess.run([*words, *overrides], stdout=subprocess.PIPE, text=True, check=False)
        failed += result.returncode != 0
        if not result.returncode:
            print(row(json.loads(result.stdout.strip().splitlines()[-1])), flush=True)
    return 1 if failed else 0


def row(found: dict) -> str:
    ours, other = found["ours"], found["neighbour"]
    cells = []
    for what in ("audio", "tokens"):
        mine, theirs = ours[what] / ours["seconds"], other[what] / other["seconds"]
        cells += [f"{mine:.2f}", f"{theirs:.2f}", f"{mine / theirs:.2f}"]
    return f"| {found['method']} | {' | '.join(cells)} | {found['peak_memory_gb']:.1f} |"


def measure(path: str, method: str, steps: int, overrides: list[str]) -> dict:
    """Seconds, seconds of audio and real tokens of `steps` steps of each way, taken in turn."""
    recipe = load_recipe(path, [*overrides, *METHODS[method]])
    torch.manual_seed(recipe.seed)
    model = SpeechLM.from_recipe(recipe).to(default_device()).train()
    processor = SpeechProcessor.build(model.config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    cuts = load_cuts(recipe.data.train, recipe.data)
    ours = iter(BatchStream(cuts, processor, recipe.data, recipe.augment, recipe.seed))
    neighbour = random_batches(list(cuts), processor, recipe.data.max_batch_clips)
    told = {name: {"seconds": 0.0, "audio": 0.0, "tokens": 0} for name in ("ours", "neighbour")}
    peak = 0.0
    for step, (mine, theirs) in enumerate(islice(zip(ours, neighbour, strict=False), steps + 1)):
        for name, batch in (("ours", mine), ("neighbour", theirs)):
            audio = float(batch.pop("seconds"))
            batch = {k: v.to(model.device) for k, v in batch.items() if not k.startswith("ctc")}
            began = time.perf_counter()
            loss = model(**batch).loss if name == "ours" else loss_everywhere(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            if step == 0:  # a warm-up, and ours comes first: its peak is its own
                peak = peak or peak_memory_gb()
                continue
            told[name]["seconds"] += time.perf_counter() - began
            told[name]["audio"] += audio
            told[name]["tokens"] += int(batch["attention_mask"].sum())
    return {"method": method, **told, "peak_memory_gb": peak}


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
    labels = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


if __name__ == "__main__":
    sys.exit(main())
