"""One dense line of progress: step, loss, WER, hours of audio per hour, memory, time left."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def peak_memory_gb() -> float:
    """Most memory this process has held, in GB: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage says on Linux begins at the parent's peak
        return float(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9  # bytes there, kibibytes elsewhere


def clock(seconds: float) -> str:
    """12:34, or 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class ProgressLine(TrainerCallback):
    """Prints a line to standard error whenever the Trainer logs."""

    def __init__(self, front_end_steps: int, audio_seconds: Callable[[], float]) -> None:
        """`front_end_steps` come first and go faster; `audio_seconds` tells how much was heard so far."""
        self.front_end_steps, self.audio_seconds = front_end_steps, audio_seconds
        self.wer: Optional[float] = None
        self.start = (0.0, 0, 0.0)
        self.was_warm = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._restart(state)

    def _restart(self, state: TrainerState) -> None:
        self.start = (time.perf_counter(), state.global_step, self.audio_seconds())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Optional[dict[str, float]] = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if not state.is_world_process_zero:
            return
        if "eval_loss" in logs:
            told = f"validation loss {logs['eval_loss']:.3f}"
            if "eval_wer" in logs:
                self.wer = logs["eval_wer"]
                told += f"  WER {self.wer:6.1%}"
            print(f"step {state.global_step:>5}/{state.max_steps}  {told}", file=sys.stderr)
        if "eval_ctc_wer" in logs:
            self.wer = logs["eval_ctc_wer"]
            spelled = f"front end: CER {logs['eval_ctc_cer']:6.1%}  WER {self.wer:6.1%}"
            print(f"step {state.global_step:>5}/{state.max_steps}  {spelled}", file=sys.stderr)
        if "loss" not in logs:
            return
        began, first_step, first_audio = self.start
        wall, steps = time.perf_counter() - began, state.global_step - first_step
        rate = (self.audio_seconds() - first_audio) / wall
        warm = state.global_step <= self.front_end_steps
        if self.was_warm and not warm:
            self._restart(state)  # the steps after the warm-up take longer; the time left counts from here
        self.was_warm = warm
        wer = "   --  " if self.wer is None else f"{self.wer:6.1%}"
        print(
            f"step {state.global_step:>5}/{state.max_steps}  {'front-end ' if warm else ''}loss {logs['loss']:.3f}  "
            f"WER {wer}  {rate:.0f} h audio/h  {peak_memory_gb():.1f} GB  "
            f"{clock(wall / max(1, steps) * (state.max_steps - state.global_step))} left",
            file=sys.stderr,
            flush=True,
        )
