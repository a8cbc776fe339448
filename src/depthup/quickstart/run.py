"""From nothing to a small speech LLM, measured before and after."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Optional

import torch
from rich.console import Console
from rich.table import Table

from depthup import api
from depthup.config import Recipe
from depthup.evaluate import AsrReport, TextReport
from depthup.model.base import PACKAGED, fetched
from depthup.model.cpu_kernels import multiplies_bfloat16
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.quickstart.corpus import make_corpus
from depthup.recipe import load_recipe
from depthup.report.terminal import print_summary
from depthup.train.progress import clock

RECIPE = Path(__file__).with_name("recipe.yaml")
TEXT = Path(__file__).with_name("text.txt")
EXAMPLES = 6
CLIPS_BEFORE, CLIPS_AFTER = 24, 200
"""Test clips measured; an untrained model babbles to the limit and takes long."""


def quickstart_recipe(directory: Path, base: str) -> Recipe:
    """The shipped recipe, on the corpus and with the run below `directory`."""
    corpus = directory / "corpus"
    fast = multiplies_bfloat16() and not torch.cuda.is_available()
    changes = {
        "dtype": "bfloat16" if fast else "auto",  # on a CPU that multiplies in it half the time
        "output_dir": directory / "run",
        "base": base,
        "data.train": corpus / "train.jsonl",
        "data.validation": corpus / "validation.jsonl",
    }
    return load_recipe(RECIPE, [word for key, value in changes.items() for word in (f"--{key}", str(value))])


def run(directory: Path, base: Optional[str] = None) -> None:
    """Fetch a base, make a corpus, insert layers, train, and print what it did to speech and text.

    Everything goes below `directory`; a second call goes on where the first was interrupted. Raises UserError.
    """
    console, began = Console(), time.perf_counter()
    console.rule("1. A text LLM")
    base = base or PACKAGED
    console.print(f"{base}, at {fetched(base)}")

    console.rule("2. A small corpus of synthetic speech")
    make_corpus(directory / "corpus")
    console.print(
        "Commands spoken by espeak-ng's voices: synthetic speech, made here in seconds, good for a first look.\n"
        "Test sentences and test voices occur nowhere in training."
    )

    console.rule("3. New layers in the frozen LLM")
    recipe = quickstart_recipe(directory, base)
    print_summary(api.summary(recipe), console)
    model = SpeechLM.from_recipe(replace(recipe, dtype="auto"))  # in what the trained one is loaded in
    before = measure(model, SpeechProcessor.build(model.config), directory, CLIPS_BEFORE)

    console.rule("4. Training")
    trained_began = time.perf_counter()
    run_dir = api.train(recipe)
    console.print(f"{clock(time.perf_counter() - trained_began)} of training")

    console.rule("5. Before and after")
    model, processor = api.load(run_dir)
    after = measure(model, processor, directory, CLIPS_AFTER)
    report(console, before, after, model.summary().share_of_full)
    _next_steps(console, directory, run_dir, time.perf_counter() - began)


def measure(model: SpeechLM, processor: SpeechProcessor, directory: Path, clips: int) -> tuple[AsrReport, TextReport]:
    """WER on `clips` of unseen voices and sentences, and drift on a page of text."""
    test, text = str(directory / "corpus" / "test.jsonl"), TEXT
    found = api.evaluate(model.to(api.default_device()), processor, test, text, limit=clips)
    return found.asr[test], found.drift[str(text)]


def report(
    console: Console, before: tuple[AsrReport, TextReport], after: tuple[AsrReport, TextReport], share: float
) -> None:
    """Print transcripts and the numbers before and after training."""
    table = Table("said", "heard before", "heard after", title="Unseen voices, unseen sentences", title_justify="left")
    for old, new in list(zip(before[0].examples, after[0].examples, strict=False))[:EXAMPLES]:
        table.add_row(new.reference, " ".join(old.hypothesis.split())[:40], new.hypothesis)
    console.print(table)
    numbers = Table("", "before", "after")
    numbers.add_row(
        "WER, unseen voices and sentences", *(f"{r.wer:.1%} of {r.clips} clips" for r, _ in (before, after))
    )
    numbers.add_row("perplexity of a text", f"{before[1].perplexity:.3f}", f"{after[1].perplexity:.3f}")
    identical = ["yes" if text.identical else "no" for _, text in (before, after)]
    numbers.add_row("text logits identical to the base", *identical)
    numbers.add_row("trained parameters, of full fine-tuning's", "", f"{share:.1%}")
    console.print(numbers)


def _next_steps(console: Console, directory: Path, run_dir: Path, seconds: float) -> None:
    sample = next((directory / "corpus").rglob("*.flac"))
    depthup = shutil.which("depthup") or ".venv/bin/depthup"
    console.rule(f"Done in {clock(seconds)}. Next")
    for about, command in {
        "transcribe a file (synthetic, or your own voice saying such a command)": f"transcribe {run_dir} {sample}",
        "measure again, by voice and accent": f"evaluate {run_dir} --asr {directory}/corpus/test.jsonl --by accent",
        "your own recordings: a JSONL manifest with audio and text, and a recipe": (
            "train recipes/english.yaml --data.train yours.jsonl --output_dir runs/yours"
        ),
    }.items():
        console.print(f"# {about}", style="dim")
        console.print(f"{depthup} {command}\n", soft_wrap=True, highlight=False)
