"""A plan held against what a run has measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from depthup.errors import UserError
from depthup.planning.assumptions import Assumptions
from depthup.planning.hardware import Device
from depthup.planning.planner import plan_training
from depthup.recipe import RECIPE, load_recipe
from depthup.train.record import NAME as RECORD


@dataclass
class Check:
    """Planned and measured."""

    trainable: tuple[int, int]
    step_seconds: tuple[float, Optional[float]]
    """The planned one at the assumed utilisation."""
    memory_gb: tuple[float, float]
    """On a GPU of tensors alone, which is what a run measures there; on a CPU of the whole process."""
    utilisation: Optional[float]
    """Share of the device's peak that the run's steps reached."""


def check(run: Union[str, Path], device: Device, assumed: Optional[Assumptions] = None) -> Check:
    """Plan a finished run again from its recipe, and hold the plan against its `training.json`.

    Args:
        run: directory of a run on one device.
        device: e.g. `Device("cpu", matmul_tflops())`, measured with the run's threads on the run's machine.
        assumed: clip length and words as in the run's recordings; how well the plan fits depends on them.

    Raises UserError.
    """
    record = Path(run) / RECORD
    if not record.is_file():
        raise UserError(f"{record}: no such file; give the output directory of a finished training")
    measured, assumed = json.loads(record.read_text(encoding="utf-8")), assumed or Assumptions()
    planned = plan_training(load_recipe(Path(run) / RECIPE), device, assumed=assumed)
    took = measured["step_seconds"]
    # The batches of the run may have been fuller or emptier than the planned one.
    batches = measured["steps"] + measured["ctc_steps"]
    scale = measured["audio_hours"] / batches / (planned.hours / (planned.steps + planned.ctc_steps))
    seconds = planned.step_seconds * scale
    memory = planned.memory.total - (0.0 if device.name == "cpu" else planned.memory.overhead)
    return Check(
        trainable=(planned.model.trainable, measured["plan"]["trainable"]),
        step_seconds=(seconds, took),
        memory_gb=(memory / 1e9, measured["peak_memory_gb"]),
        utilisation=assumed.utilisation * seconds / took if took else None,
    )
