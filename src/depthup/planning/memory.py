"""What lies in a GPU's memory while a recipe trains."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from depthup.config import Recipe
from depthup.model.quantized import packed_bytes
from depthup.model.speech_lm import SpeechLM
from depthup.model.upscale import base_linears
from depthup.planning.assumptions import ADAM, GRADIENT, Assumptions
from depthup.planning.step import LM_HEAD, Step


@dataclass
class Weights:
    """Bytes of a model's weights."""

    frozen: int
    trained: int
    count: int
    """Trained weights."""
    largest: int
    """Bytes of the largest layer, embedding or head, which sharding gathers at a time."""
    saved: int = 0
    """Bytes that packing the base's frozen linears saves; `frozen` counts them packed."""
    unpacked: int = 0
    """Bytes of the largest of them unpacked, as it is for a product."""
    teacher: int = 0
    """Bytes of the frozen copy of the base that `replay.loss: distill` keeps."""

    @classmethod
    def of(cls, model: SpeechLM) -> Weights:
        units = [model.encoder, model.get_input_embeddings(), *model.llm.get_decoder().layers]
        kind, decoder = model.config.base_quantization, model.llm.get_decoder()
        linears = [decoder.get_submodule(name).weight for name in base_linears(model.llm)]
        whole = {w: w.numel() * w.element_size() for w in linears if not w.requires_grad} if kind != "none" else {}
        saved = sum(size - packed_bytes(weight, kind) for weight, size in whole.items())
        return cls(
            frozen=_bytes(model, trains=False) - saved,
            trained=_bytes(model, trains=True),
            count=sum(p.numel() for p in model.parameters() if p.requires_grad),
            largest=max(_bytes(unit, False) + _bytes(unit, True) for unit in units),
            saved=saved,
            unpacked=max(whole.values(), default=0),
        )


def _bytes(module: nn.Module, trains: bool) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad == trains)


@dataclass
class Memory:
    """Bytes on each GPU."""

    frozen_weights: float
    trained_weights: float
    adam: float
    gradients: float
    gathered: float
    """Weights of two layers together, with sharding; else gradients on their way between GPUs."""
    activations: float
    """Kept for the backward pass, logits included."""
    logits: float
    """Of them those of the LM head and its loss."""
    in_passing: float
    """What the fullest moment holds beyond the lines above, which are not all there at once; may be negative."""
    overhead: float

    @property
    def total(self) -> float:
        """At the fullest moment of a step."""
        return (
            self.frozen_weights
            + self.trained_weights
            + self.adam
            + self.gradients
            + self.gathered
            + self.activations
            + self.in_passing
            + self.overhead
        )


def memory_per_gpu(
    weights: Weights, steps: list[Step], recipe: Recipe, assumed: Assumptions, gpus: int, sharding: str
) -> Memory:
    """The fullest moment of a step, which is in the backward pass: a fused AdamW holds nothing in passing."""
    shards = gpus if sharding == "full" else 1
    gradients = weights.count * GRADIENT / shards
    fullest = max(steps, key=lambda step: step.peak_with_gradients)
    # Gradients of earlier batches are there from the start; shards of them are small beside what else there is.
    all_at_once = recipe.train.gradient_accumulation_steps > 1 or shards > 1
    backward = fullest.peak + gradients if all_at_once else fullest.peak_with_gradients
    backward += weights.unpacked
    if shards > 1:
        gathered = 2.0 * weights.largest
    else:
        gathered = gradients if gpus > 1 else 0.0
    return Memory(
        frozen_weights=(weights.frozen + weights.teacher) / shards,
        trained_weights=weights.trained / shards,
        adam=weights.count * ADAM / shards,
        gradients=gradients,
        gathered=gathered,
        activations=fullest.activations,
        logits=fullest.saved.get(LM_HEAD, 0),
        in_passing=backward - gradients - fullest.activations,
        overhead=assumed.overhead_gb * 1e9,
    )
