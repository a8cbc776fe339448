"""From a recipe, hours of speech and a kind of GPU to steps, operations, memory, time and money."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from depthup.config import Recipe
from depthup.data.replay import distillation, refuse_idle
from depthup.errors import UserError
from depthup.model.speech_lm import SpeechLM
from depthup.model.summary import ModelSummary
from depthup.planning.assumptions import ADAM_TRAFFIC, Assumptions
from depthup.planning.hardware import Device
from depthup.planning.memory import Memory, Weights, memory_per_gpu
from depthup.planning.stand_in import Batch, build, drop_contents, replayed_batch, simulated_batch, speech_batch
from depthup.planning.step import Step, measure

SPEECH, FULLEST, CTC, TEXT = "speech", "speech at its fullest", "CTC warm-up", "text replay"
DRAFTS = "simulated drafts"


@dataclass
class TrainingPlan:
    """What training as a recipe says will take. Bytes, seconds and FLOPs are plain numbers."""

    model: ModelSummary
    device: Device
    gpus: int
    sharding: str
    assumed: Assumptions
    hours: float
    """Hours of audio that training hears."""
    epochs: Optional[float]
    """Passes over the corpus; None where its hours are unknown."""
    steps: int
    """Optimizer steps with the LM loss."""
    ctc_steps: int
    steps_by_kind: dict[str, Step]
    """One batch of each kind: `speech`, `speech at its fullest` for its memory, and where the recipe has them
    `CTC warm-up`, `text replay` and `simulated drafts`."""
    batches: dict[str, float]
    """How many of each, on all GPUs together; those at their fullest count as `speech`."""
    memory: Memory
    seconds: float
    """Wall time, without measurements, checkpoints and waiting for data."""
    step_seconds: float
    """Of an optimizer step with the LM loss."""
    price: Optional[float] = None
    """Of a GPU for an hour."""

    @property
    def flops(self) -> float:
        """Floating-point operations of the whole training, on all GPUs."""
        return sum(count * self.steps_by_kind[kind].total_flops for kind, count in self.batches.items())

    @property
    def gpu_hours(self) -> float:
        return self.seconds / 3600 * self.gpus

    @property
    def cost(self) -> Optional[float]:
        return None if self.price is None else self.price * self.gpu_hours

    @property
    def fits(self) -> Optional[bool]:
        """Whether it fits into a GPU's memory; None where that is unknown."""
        return None if self.device.memory_gb is None else self.memory.total <= self.device.memory_gb * 1e9

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        told = dataclasses.asdict(self)
        for kind, step in self.steps_by_kind.items():
            told["steps_by_kind"][kind] |= {"total_flops": step.total_flops, "activations": step.activations}
        told["model"] |= {
            "total": self.model.total,
            "trainable": self.model.trainable,
            "share_of_full": self.model.share_of_full,
        }
        told["memory"]["total"] = self.memory.total
        return told | {"flops": self.flops, "gpu_hours": self.gpu_hours, "cost": self.cost, "fits": self.fits}


def _check_sizes(gpus: int, hours: Optional[float], epochs: Optional[float]) -> None:
    if gpus < 1 or (hours is not None and hours <= 0) or (epochs is not None and epochs <= 0):
        raise UserError("--gpus, --hours and --epochs must be positive")
    if epochs is not None and hours is None:
        raise UserError("--epochs: passes over what? Give the hours of the corpus with --hours")


def _shares(recipe: Recipe) -> dict[str, float]:
    """Of batches with the LM loss, by kind."""
    replayed = recipe.replay.share if recipe.replay.text else 0.0
    simulated = (1 - replayed) * recipe.simulated_drafts.share if recipe.simulated_drafts.on else 0.0
    shares = {SPEECH: 1 - replayed - simulated, TEXT: replayed, DRAFTS: simulated}
    return {kind: share for kind, share in shares.items() if share or kind == SPEECH}


def _batches(
    recipe: Recipe,
    shares: dict[str, float],
    steps: dict[str, Step],
    gpus: int,
    hours: Optional[float],
    epochs: Optional[float],
) -> tuple[int, dict[str, float]]:
    """Steps with the LM loss, and batches of each kind on all GPUs: the recipe's, or of passes over `hours`."""
    settings = recipe.train
    batches_per_step = gpus * settings.gradient_accumulation_steps
    audio = steps[SPEECH].audio_seconds / 3600
    lm_steps, ctc_steps = settings.max_steps, settings.front_end_steps
    if hours is not None:
        if not shares[SPEECH]:
            raise UserError(f"--hours {hours:g}: simulated_drafts.share 1 hears no recordings; leave --hours out")
        left = hours * (epochs or 1.0) - ctc_steps * batches_per_step * audio
        if left <= 0:
            raise UserError(f"--hours {hours:g}: train.front_end_steps {ctc_steps} hear more than that already")
        lm_steps = math.ceil(left / audio / shares[SPEECH] / batches_per_step)
    batches = {kind: lm_steps * batches_per_step * share for kind, share in shares.items()}
    if CTC in steps:
        batches[CTC] = float(ctc_steps * batches_per_step)
    return lm_steps, batches


def plan_training(
    recipe: Recipe,
    device: Device,
    gpus: int = 1,
    hours: Optional[float] = None,
    epochs: Optional[float] = None,
    sharding: str = "none",
    price: Optional[float] = None,
    assumed: Optional[Assumptions] = None,
) -> TrainingPlan:
    """Plan a training run without weights, recordings or GPU.

    Args:
        hours: size of the corpus. With it training makes `epochs` passes (default 1); without it, the recipe's steps.
        sharding: `none` (data parallel, a whole copy on each GPU) or `full` (as FSDP: weights, gradients and AdamW's
            state divided over the GPUs).
        price: of a GPU for an hour.

    Raises UserError.
    """
    _check_sizes(gpus, hours, epochs)
    assumed = assumed or Assumptions()
    mixed = device.mixed_precision if recipe.dtype == "auto" else recipe.dtype == "bfloat16"
    model = build(recipe)
    summary, steps = model.summary(), measure_steps(recipe, model, mixed, assumed)
    weights = Weights.of(model)
    if TEXT in steps and recipe.replay.loss == "distill":
        weights.teacher = summary.base_parameters * (2 if mixed else 4) - weights.saved

    settings, shares = recipe.train, _shares(recipe)
    lm_steps, batches = _batches(recipe, shares, steps, gpus, hours, epochs)
    heard = (batches[SPEECH] + batches.get(CTC, 0)) * steps[SPEECH].audio_seconds / 3600

    rate = device.tflops * 1e12 * assumed.utilisation
    adam = summary.trainable * ADAM_TRAFFIC / (device.bandwidth_gb_s * 1e9) if device.bandwidth_gb_s else 0.0
    adam /= gpus if sharding == "full" else 1
    per_kind = {kind: settings.gradient_accumulation_steps * step.total_flops / rate for kind, step in steps.items()}
    step_seconds = adam + sum(per_kind[kind] * share for kind, share in shares.items())
    return TrainingPlan(
        model=summary,
        device=device,
        gpus=gpus,
        sharding=sharding,
        assumed=assumed,
        hours=heard,
        epochs=heard / hours if hours else None,
        steps=lm_steps,
        ctc_steps=settings.front_end_steps,
        steps_by_kind=steps,
        batches=batches,
        memory=memory_per_gpu(weights, list(steps.values()), recipe, assumed, gpus, sharding),
        seconds=lm_steps * step_seconds + settings.front_end_steps * (adam + per_kind.get(CTC, 0.0)),
        step_seconds=step_seconds,
        price=price,
    )


def measure_steps(recipe: Recipe, model: SpeechLM, mixed: bool, assumed: Assumptions) -> dict[str, Step]:
    """A batch of each kind that training has, on `model`, whose weights are replaced by ones without contents."""
    frozen = torch.bfloat16 if mixed else torch.float32
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    drop_contents(model, model.llm, frozen, mode)
    model.train()
    settings = recipe.train
    if settings.gradient_checkpointing:
        model.recompute_activations()

    def loss(batch: Batch) -> torch.Tensor:
        return model(**batch, ctc_weight=settings.ctc_weight).loss

    full, seconds = speech_batch(model, recipe, assumed, fullest=True)
    batch, usual_seconds = speech_batch(model, recipe, assumed)
    found = {SPEECH: measure(model, batch, loss, usual_seconds, mixed)}
    found[FULLEST] = found[SPEECH] if seconds == usual_seconds else measure(model, full, loss, seconds, mixed)
    if settings.front_end_steps:
        found[CTC] = measure(model, batch, lambda b: model(**b, front_end_only=True).loss, usual_seconds, mixed)
    refuse_idle(recipe, model.keeps_text)
    if recipe.replay.text:
        found[TEXT] = measure(model, replayed_batch(recipe), _text_loss(recipe, model, frozen, mode), autocast=mixed)
    if recipe.simulated_drafts.on:
        simulated = simulated_batch(recipe, assumed)
        found[DRAFTS] = measure(model, simulated, lambda b: model(**b).loss, autocast=mixed)
    return found


def _text_loss(recipe: Recipe, model: SpeechLM, dtype: torch.dtype, mode: FakeTensorMode) -> Any:
    if recipe.replay.loss == "lm":
        return lambda batch: model(**batch).loss
    with torch.device("meta"):
        teacher: nn.Module = AutoModelForCausalLM.from_config(model.config.make_base_config())
    drop_contents(teacher.requires_grad_(False), teacher, dtype, mode)

    return lambda batch: distillation(model, teacher, {k: v for k, v in batch.items() if k != "labels"})
