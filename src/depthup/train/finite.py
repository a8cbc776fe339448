"""Optimizer steps whose loss or gradients are not finite: they change nothing, are named, and stop the run or not."""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from depthup.errors import UserError

DIVERGED = "loss is not a number"
"""In the message of a run that was stopped for it."""
MOST_IN_A_ROW = 20

log = logging.getLogger("depthup")


class FiniteSteps(TrainerCallback):
    """Lets an optimizer's step happen only where the norm of the gradients is finite.

    That is decided on the device, and alike on all ranks, whose gradients are the same by then. The outcome is looked
    at when the step is over, where the record of step times waits for the device anyway.
    """

    def __init__(self, on_nan: Literal["stop", "skip"], run: str, device: torch.device) -> None:
        self.on_nan, self.run = on_nan, run
        self.gate = torch.zeros((), device=device)
        self.left_out: list[int] = []
        """Numbers of the steps that changed nothing."""
        self.logged = 0
        self.left_out_logged = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.logged, self.left_out_logged = state.global_step, len(self.left_out)

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Give a fused optimizer the gate, by the name that mixed precision's gradient scaler has for it."""
        optimizer.found_inf = self.gate  # type: ignore[attr-defined]

    def judge(self, norm: Any) -> None:
        """Take the norm of all gradients, a number or tensor [], before the optimizer's step."""
        norm = norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(norm)
        self.gate.copy_(~norm.isfinite())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Raises UserError at a step that was left out where the recipe says stop, or after many in a row."""
        if not self.gate:
            return
        step = state.global_step
        self.left_out.append(step)
        if self.on_nan == "stop":
            raise UserError(
                f"{DIVERGED} at step {step}, or its gradients are not: lower train.learning_rate, or leave such steps "
                f"out with train.on_nan=skip; checkpoints up to here are kept in {self.run}"
            )
        if self.left_out[-MOST_IN_A_ROW:] == list(range(step - MOST_IN_A_ROW + 1, step + 1)):
            raise UserError(
                f"{DIVERGED} in {MOST_IN_A_ROW} steps in a row, up to step {step}: lower train.learning_rate; "
                f"checkpoints up to here are kept in {self.run}"
            )
        if state.is_world_process_zero:
            log.warning("step %d: left out, its loss or gradients are not finite (number %d)", step, len(self.left_out))

    def mean_of_others(self, mean: float, step: int) -> float:
        """From the mean loss of all steps since the last call, those left out being 0, to that of the others."""
        steps, left_out = step - self.logged, len(self.left_out) - self.left_out_logged
        self.logged, self.left_out_logged = step, len(self.left_out)
        return mean * steps / (steps - left_out) if steps > left_out else math.nan


def telling(loss: torch.Tensor) -> torch.Tensor:
    """The same loss; one that is not finite makes all gradients so, on every rank, for `FiniteSteps` to see."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)
