"""What benchmarks share: clock, processes of their own, batches with contents, and rows as a JSON file."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from depthup.api import default_device
from depthup.config import Recipe
from depthup.model.speech_lm import SpeechLM
from depthup.planning.assumptions import Assumptions
from depthup.planning.stand_in import speech_batch

WITHOUT_CTC = ("--train.ctc_weight=0", "--train.front_end_steps=0")
"""Changes to a recipe."""
# Else asking for a GPU would begin to use it, in the process that all others are copies of.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
T = TypeVar("T")


def now() -> float:
    """Seconds, when all work given to a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def apart(function: Callable[..., T], *args: Any) -> T:
    """What `function(*args)` gives in a process of its own, so that its memory, and its failure, are its own.

    The process begins with everything imported. Raises what `function` raises, or BrokenProcessPool where it is killed.
    """
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        return pool.submit(function, *args).result()


def full_batch(
    model: SpeechLM, recipe: Recipe, seconds: float, clip: float, padding: float = 0.0
) -> dict[str, torch.Tensor]:
    """`seconds` of audio in clips of one length, all but the first with `padding`, a share; with labels."""
    recipe.data.batch_seconds, recipe.data.max_batch_clips = seconds, sys.maxsize
    planned, _ = speech_batch(model, recipe, Assumptions(clip_seconds=clip, padding=padding))
    # What a plan leaves without contents is features.
    wanted = {name: value for name, value in planned.items() if not name.startswith("ctc")}
    contents = {name: torch.randn(value.shape) if value.is_meta else value for name, value in wanted.items()}
    return {name: value.to(default_device()) for name, value in contents.items()}


def read_speech_seconds(clips: int) -> np.ndarray:
    """Made-up durations [clips] like those of read speech, float32, 11.5 s on average.

    65 % of the clips normal around 13.8 s (deviation 1.9 s), 35 % even from 1.5 to 13 s.
    """
    rng = np.random.default_rng(0)
    long = rng.random(clips) < 0.65
    seconds = np.where(long, rng.normal(13.8, 1.9, clips), rng.uniform(1.5, 13, clips))
    return seconds.clip(1, 20).astype(np.float32)


def save(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Write rows with the command and the machine to `path`, or nowhere."""
    if path is None:
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    told = {"command": " ".join(sys.argv), "device": device, "threads": torch.get_num_threads(), "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
