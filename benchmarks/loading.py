"""From audio files to batches: hours of audio per second on one core, and what training waits for.

    python benchmarks/loading.py benchmarks/prompts.yaml
    python benchmarks/loading.py recipes/fsdd.yaml --steps 0      # loading alone

Reading is decoding and resampling; features are what the encoder wants, with ids and labels. Waiting is measured in a
training loop without CTC, the batch being asked for after each step as a Trainer does. Transcription reads ahead of a
model that is stood in for by waiting.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import WITHOUT_CTC, save
from torch.utils.data import DataLoader

from depthup.api import default_device
from depthup.config import Recipe
from depthup.data import BatchStream, load_cuts, read_audio
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.recipe import load_recipe
from depthup.transcribe.batches import ahead


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--clips", type=int, default=300, help="clips to read")
    parser.add_argument("--batches", type=int, default=30, help="batches to load")
    parser.add_argument("--steps", type=int, default=6, help="training steps to watch, 0 for none")
    parser.add_argument("--workers", default="0,1", help="numbers of loading processes to train with")
    parser.add_argument("--json", type=Path)
    options, overrides = parser.parse_known_args()
    recipe = load_recipe(options.recipe, [*overrides, *WITHOUT_CTC])
    model = SpeechLM.from_recipe(recipe, load_weights=options.steps > 0)
    processor = SpeechProcessor.build(model.config)
    rows = loading(recipe, processor, options.clips, options.batches)
    print("| one core | hours of audio per second | times real time |\n|---|---:|---:|")
    for row in rows:
        print(f"| {row['what']} | {row['rate'] / 3600:.3f} | {row['rate']:.0f} |")
    print("\n| a model that hears so many s a second | reading in between | reading ahead |\n|---:|---:|---:|")
    for speed in (1000, 2000):
        rows.append(transcribing(recipe, processor, speed))
        print(f"| {speed} | {rows[-1]['between']:.0f} | {rows[-1]['ahead']:.0f} |")
    if options.steps:
        print("\n| loading processes | s per step | of them waiting for data |\n|---|---:|---:|")
        for workers in map(int, options.workers.split(",")):
            rows.append(waiting(recipe, model, processor, workers, options.steps))
            print(f"| {workers} | {rows[-1]['seconds']:.2f} | {rows[-1]['waiting']:.1%} |")
    save(options.json, rows)


def loading(recipe: Recipe, processor: SpeechProcessor, clips: int, batches: int) -> list[dict[str, Any]]:
    """Seconds of audio per second of each part of the way, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cuts = list(islice(load_cuts(recipe.data.train, recipe.data), clips))
    began = time.perf_counter()
    audio = [read_audio(cut, processor.sampling_rate) for cut in cuts]
    read = time.perf_counter()
    for samples, cut in zip(audio, cuts, strict=True):
        processor.training_batch([samples], [cut.supervisions[0].text])
    made = time.perf_counter()
    seconds = sum(map(len, audio)) / processor.sampling_rate
    stream = iter(new_stream(recipe, processor))
    next(stream)
    started = time.perf_counter()
    streamed = sum(float(batch["seconds"]) for batch in islice(stream, batches))
    ended = time.perf_counter()
    torch.set_num_threads(threads)
    return [
        {"what": "reading", "rate": seconds / (read - began)},
        {"what": "features", "rate": seconds / (made - read)},
        {"what": "from files to batches, augmentation included", "rate": streamed / (ended - started)},
    ]


def transcribing(recipe: Recipe, processor: SpeechProcessor, speed: float, groups: int = 40) -> dict[str, float]:
    """Times real time of reading recordings, and of waiting as long as a model of that speed hears them."""

    def clips() -> Iterator[list[np.ndarray]]:
        cuts = cycle(load_cuts(recipe.data.train, recipe.data))
        return ([read_audio(cut, processor.sampling_rate) for cut in islice(cuts, 100)] for _ in range(groups))

    def rate(read: Iterator[list[np.ndarray]]) -> float:
        seconds, began = 0.0, time.perf_counter()
        for group in read:
            heard = sum(map(len, group)) / processor.sampling_rate
            time.sleep(heard / speed)
            seconds += heard
        return seconds / (time.perf_counter() - began)

    return {"speed": speed, "between": rate(clips()), "ahead": rate(ahead(clips()))}


def waiting(recipe: Recipe, model: SpeechLM, processor: SpeechProcessor, workers: int, steps: int) -> dict[str, Any]:
    """Mean seconds of a training step, and the share of them in which it waited for its batch."""
    model.to(default_device()).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    batches = iter(DataLoader(new_stream(recipe, processor), batch_size=None, num_workers=workers))
    next(batches)
    waited, began = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        inputs = {k: v.to(model.device) for k, v in batch.items() if "ctc" not in k and k != "seconds"}
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    taken = time.perf_counter() - began
    return {"workers": workers, "seconds": taken / steps, "waiting": waited / taken}


def new_stream(recipe: Recipe, processor: SpeechProcessor) -> BatchStream:
    return BatchStream(load_cuts(recipe.data.train, recipe.data), processor, recipe.data, recipe.augment, recipe.seed)


if __name__ == "__main__":
    main()
