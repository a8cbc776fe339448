"""Several clips in one row with a mask between them, against batches of clips of like length: is there room to win?

    python benchmarks/packing.py recipes/paper/smollm2-360m/full.yaml --positions 8192

Forward and backward pass of the recipe's base alone, frozen, on embeddings of made-up clips as long as read speech:
what inserted layers add is the same for every way. `buckets` are our own batches, `random` clips as they come, both
padded to the longest; `packed` is one row of `--positions`, whose attention keeps clips apart: by a mask of all pairs,
or on GPUs by flex attention, which skips what is masked. Real positions a second are what counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import apart, now, read_speech_seconds, save
from torch import nn
from transformers import AutoModelForCausalLM

from depthup.api import default_device
from depthup.config import DataConfig
from depthup.data.bucketing import Bucketing
from depthup.data.mixing import Sources
from depthup.model.base import load_base_config, resolve_dtype
from depthup.model.cpu_kernels import fast_kernels
from depthup.planning.assumptions import Assumptions
from depthup.recipe import load_recipe
from depthup.train.progress import peak_memory_gb

CLIPS = 20_000
FRAME_RATE = 12.5
PACKED = {"packed, mask of all pairs": "sdpa", "packed, flex attention": "flex_attention"}
"""Ways, and what computes their attention."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--positions", type=int, default=8192, help="of a batch, padding included")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options, overrides = parser.parse_known_args()
    rows = []
    print("| way | real positions/s | padding | s per step | peak GB |\n|---|---:|---:|---:|---:|", flush=True)
    for way in ("random", "buckets", *PACKED):
        found = apart(measure, options.recipe, overrides, way, options.positions, options.steps)
        if found is None:
            continue
        rows.append({"way": way, **found})
        cells = (f"{found['rate']:.0f}", f"{found['padding']:.0%}", f"{found['step_seconds']:.3f}")
        print(f"| {way} | {' | '.join(cells)} | {found['peak_memory_gb']:.2f} |", flush=True)
        save(options.json, rows)


def measure(path: str, overrides: list[str], way: str, positions: int, steps: int) -> dict[str, Any] | None:
    """Real positions a second, padding, and memory of a way; None where the device has no such way."""
    device, recipe = default_device(), load_recipe(path, overrides)
    attention = PACKED.get(way, "sdpa")
    if attention != "sdpa" and device.type == "cpu":
        return None
    torch.manual_seed(0)
    config = load_base_config(recipe.configs.get(recipe.base, recipe.base), recipe.base_revision)
    with device:
        base = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    decoder = base.to(resolve_dtype(recipe.dtype)).requires_grad_(False).get_decoder()
    clips = MadeUp(positions)
    batches = list(islice({"random": clips.shuffled, "buckets": clips.bucketed}.get(way, clips.packed)(), steps))
    inputs = [in_one_row(batch, positions) if way in PACKED else padded(batch) for batch in batches]
    step(decoder, inputs[0])  # warm up, and compile
    seconds = [step(decoder, one) for one in inputs]
    real = sum(int(batch.sum()) for batch in batches)
    return {
        "rate": real / sum(seconds),
        "padding": 1 - real / sum(one["position_ids"].numel() for one in inputs),
        "step_seconds": sum(seconds) / steps,
        "peak_memory_gb": peak_memory_gb(),
    }


def step(decoder: nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    """Seconds of a pass forward and backward."""
    like = next(decoder.parameters())
    shape = (*inputs["position_ids"].shape, decoder.config.hidden_size)
    embeddings = torch.randn(shape, device=like.device, dtype=like.dtype, requires_grad=True)
    began = now()
    with fast_kernels(like.device):
        decoder(inputs_embeds=embeddings, use_cache=False, **inputs).last_hidden_state.float().mean().backward()
    return now() - began


def padded(lengths: np.ndarray) -> dict[str, torch.Tensor]:
    """A row for each clip, padded on the right to the longest."""
    place = torch.arange(int(lengths.max()), device=default_device()).expand(len(lengths), -1)
    ends = torch.tensor(lengths, device=default_device())[:, None]
    return {"position_ids": place, "attention_mask": (place < ends).long()}


def in_one_row(lengths: np.ndarray, positions: int) -> dict[str, torch.Tensor]:
    """One row, in which positions begin anew with each clip: that is how transformers' masks know them apart."""
    parts = [*lengths, positions - int(lengths.sum())]
    return {"position_ids": torch.cat([torch.arange(int(n)) for n in parts])[None].to(default_device())}


class MadeUp:
    """Clips with durations like those of read speech, as `Bucketing` wants to know them; in batches of `positions`."""

    def __init__(self, positions: int) -> None:
        self.seconds, self.shard_sizes, self.positions = read_speech_seconds(CLIPS), np.array([CLIPS]), positions
        assumed = Assumptions()
        text = [assumed.prompt_tokens + assumed.answer_tokens(float(seconds)) for seconds in self.seconds]
        self.lengths = np.ceil(self.seconds * FRAME_RATE).astype(int) + text

    def clips(self) -> MadeUp:
        return self

    def bucketed(self) -> Iterator[np.ndarray]:
        """Positions [clips] of the clips of each batch that training would make."""
        seconds = self.positions * float(self.seconds.sum() / self.lengths.sum())
        bucketing = Bucketing(Sources((self,)), DataConfig(batch_seconds=seconds))  # type: ignore[arg-type]
        return (self.lengths[numbers] for numbers in bucketing.epoch(0, 0))

    def shuffled(self) -> Iterator[np.ndarray]:
        """As many clips in each batch as the positions hold padded to the longest of them."""
        numbers, first = np.random.default_rng(0).permutation(CLIPS), 0
        while first < CLIPS:
            longest = np.maximum.accumulate(self.lengths[numbers[first : first + self.positions]])
            count = max(1, int((longest * np.arange(1, len(longest) + 1) <= self.positions).sum()))
            yield self.lengths[numbers[first : first + count]]
            first += count

    def packed(self) -> Iterator[np.ndarray]:
        """As many clips as they come in each row as go in whole."""
        numbers, first = np.random.default_rng(0).permutation(CLIPS), 0
        while first < CLIPS:
            ends = np.cumsum(self.lengths[numbers[first : first + self.positions]])
            count = max(1, int((ends <= self.positions).sum()))
            yield self.lengths[numbers[first : first + count]]
            first += count


if __name__ == "__main__":
    main()
