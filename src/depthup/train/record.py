"""What a training run was and cost, kept beside its checkpoint for comparison."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, Optional

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from depthup import files
from depthup.config import Recipe
from depthup.model.speech_lm import SpeechLM
from depthup.train.progress import peak_memory_gb

NAME = "training.json"


class Record(TrainerCallback):
    """Counts wall time over all resumptions, and the seconds of each optimizer step of this process."""

    def __init__(self) -> None:
        self.earlier_seconds = 0.0
        self.began = self.last_end = time.perf_counter()
        self.step_seconds: list[float] = []

    @property
    def wall_seconds(self) -> float:
        """Seconds of training so far, measurements and checkpoints included."""
        return self.earlier_seconds + time.perf_counter() - self.began

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.last_end = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.step_seconds.append(time.perf_counter() - self.last_end)

    def write(
        self, recipe: Recipe, model: SpeechLM, state: TrainerState, audio_seconds: float, left_out: list[int]
    ) -> None:
        """Write the run's `training.json`: plan, rates, steps, hours, times, memory, and the history of losses and WER.

        Args:
            audio_seconds: of all clips trained on. left_out: steps that were not finite.
        """
        summary = model.summary()
        upscale = model.config.upscale_config
        ctc_steps = recipe.train.front_end_steps
        resumed_at = state.global_step - len(self.step_seconds)
        with_lm = self.step_seconds[max(0, ctc_steps - resumed_at) :]
        told = {
            "plan": {
                "method": recipe.method,
                "layer": upscale and upscale.layer,
                "scope": summary.scope,
                "num_layers": upscale.num_layers if upscale else 0,
                "keeps_text": model.keeps_text,
                "total": summary.total,
                "trainable": summary.trainable,
                "share_of_full": summary.share_of_full,
            },
            "base": recipe.base,
            "learning_rate": recipe.train.learning_rate,
            "speech_learning_rate": recipe.train.speech_learning_rate,
            "steps": recipe.train.max_steps,
            "ctc_steps": ctc_steps,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "steps_left_out": left_out,
            "audio_hours": audio_seconds / 3600,
            "wall_seconds": self.wall_seconds,
            "step_seconds": statistics.median(with_lm) if with_lm else None,
            "peak_memory_gb": peak_memory_gb(),
            "history": [kept for entry in state.log_history if (kept := _kept(entry))],
        }
        files.write_json(Path(recipe.output_dir) / NAME, told)


def _kept(entry: dict[str, float]) -> Optional[dict[str, float]]:
    keys = ("step", "audio_hours", "loss", "eval_loss", "eval_wer", "eval_ctc_cer", "eval_ctc_wer")
    kept = {key: entry[key] for key in keys if key in entry}
    return kept if len(kept) > 2 else None
