"""Transcription of a test set: ours against `generate`, in one run on one machine.

    python benchmarks/decoding.py quickstart/run quickstart/corpus/test.jsonl --limit 100

Compares `generate` clip by clip, `generate` on batches in the order of the manifest, and depthup clip by clip and in
batches of like length, with and without drafts of the CTC head; says whether all gave the same text; and times one
decoding step with inserted layers against the bare base's. A step's floor is the time to read every weight of the base
once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from report import now, save

from depthup import api
from depthup.config import DataConfig
from depthup.data import load_cuts, read_audio
from depthup.transcribe.batches import inference
from depthup.transcribe.hearing import transcribe_batch

ALONE = 1e-3
"""Seconds of audio in a batch that holds no second clip."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("manifest")
    parser.add_argument("--limit", type=int, default=100, help="clips")
    parser.add_argument("--batch", type=int, default=16, help="clips in a batch of plain `generate`")
    parser.add_argument("--batch-seconds", type=float, help="seconds of audio in a batch of ours")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: as the checkpoint is loaded")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model, processor = api.load(options.checkpoint, dtype=options.dtype)
    cuts = list(islice(load_cuts(options.manifest, DataConfig()), options.limit))
    audio = [read_audio(cut, processor.sampling_rate) for cut in cuts]
    seconds = sum(len(clip) for clip in audio) / processor.sampling_rate
    passes = Passes(model)
    ways: dict[str, Callable[[], list[str]]] = {
        "generate, clip by clip": lambda: generate(model, processor, audio, 1),
        f"generate, batches of {options.batch}": lambda: generate(model, processor, audio, options.batch),
        **{
            f"depthup, {how}, {'with' if drafts else 'without'} drafts": partial(
                transcribe, model, processor, audio, batch_seconds=batch_seconds, drafts=drafts
            )
            for how, batch_seconds in (("clip by clip", ALONE), ("batches", options.batch_seconds))
            for drafts in (False, True)
        },
    }
    rows, texts = [], {}
    with inference(model):
        generate(model, processor, audio[:2], 2)  # warm up
        for name, way in ways.items():
            passes.count, began = 0, time.perf_counter()
            texts[name] = way()
            taken = time.perf_counter() - began
            tokens = sum(len(processor.answer_ids(text)) for text in texts[name])
            rows.append(
                {"way": name, "seconds": taken, "rtf": taken / seconds, "tokens": tokens, "passes": passes.count}
            )
        step = step_cost(model, processor, audio[0])
    slowest = rows[0]["seconds"]
    print("| way | s | real-time factor | tokens/s | LLM passes | speed |\n|---|---:|---:|---:|---:|---:|")
    for row in rows:
        told = f"| {row['way']} | {row['seconds']:.1f} | {row['rtf']:.3f} | {row['tokens'] / row['seconds']:.0f} "
        print(f"{told}| {row['passes']} | {slowest / row['seconds']:.2f} x |")
    first = next(iter(texts.values()))
    differ = {name: sum(a != b for a, b in zip(first, found, strict=True)) for name, found in texts.items()}
    told = {"audio_seconds": seconds, "clips": len(audio), "texts_that_differ": differ, "step": step}
    print(json.dumps(told))
    save(options.json, [*rows, told])


class Passes:
    """Counts how often a model's LLM is run."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.count = 0
        model.llm.get_decoder().register_forward_hook(self._hook)

    def _hook(self, *args: object) -> None:
        self.count += 1


def transcribe(*arguments, **options) -> list[str]:
    return [segment.text for segment in transcribe_batch(*arguments, **options)]


def generate(model, processor, audio, size: int) -> list[str]:
    """What a user of transformers would write."""
    texts = []
    for first in range(0, len(audio), size):
        clips = audio[first : first + size]
        inputs = {k: v.to(model.device) for k, v in processor.prompt_batch(clips).items()}
        longest = max(len(clip) for clip in clips) / processor.sampling_rate
        ids = model.generate(**inputs, max_new_tokens=16 + int(12 * longest), do_sample=False)
        new = ids[:, inputs["input_ids"].shape[1] :]
        texts += [text.strip() for text in processor.tokenizer.batch_decode(new, skip_special_tokens=True)]
    return texts


def step_cost(model, processor, clip, steps: int = 30) -> dict[str, float]:
    """Median seconds of one cached step of the adapted model and of its base, in turn, and their ratio."""
    base = model.load_base().to(model.device)
    inputs = {k: v.to(model.device) for k, v in processor.prompt_batch([clip]).items()}
    text = {"input_ids": inputs["input_ids"].clamp(max=base.config.vocab_size - 1)}
    caches = {
        model: model(**inputs, use_cache=True).past_key_values,
        base: base(**text, use_cache=True).past_key_values,
    }
    token = torch.tensor([[10]], device=model.device)
    times: dict[torch.nn.Module, list[float]] = {model: [], base: []}
    for _ in range(steps):
        for one, cache in caches.items():
            began = now()
            one(input_ids=token, past_key_values=cache, use_cache=True)
            times[one].append(now() - began)
    adapted, bare = (median(found[5:]) for found in times.values())
    weights = sum(p.numel() * p.element_size() for p in base.parameters())
    return {"adapted": adapted, "base": bare, "ratio": adapted / bare, "floor": weights / read_rate(model.device)}


def read_rate(device: torch.device) -> float:
    """Bytes a second of reading memory once: what one step must do with every weight."""
    values = torch.ones(2**28, device=device)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        float(values.sum())
        seconds.append(time.perf_counter() - began)
    return values.numel() * values.element_size() / min(seconds)


if __name__ == "__main__":
    main()
