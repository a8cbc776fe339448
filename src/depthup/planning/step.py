"""One batch's forward and backward pass, measured without contents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from depthup.model.layers.inserted import InsertedLayer
from depthup.model.speech_lm import SpeechLM
from depthup.planning.meter import Meter
from depthup.planning.stand_in import Batch

LM_HEAD = "LM head, at labels"


@dataclass
class Step:
    """What one batch costs on one GPU."""

    audio_seconds: float
    speech_tokens: int
    text_tokens: int
    flops: dict[str, dict[str, int]]
    """Part of the model -> phase (`forward`, `recompute`, `backward`) -> floating-point operations."""
    attention: dict[str, int]
    """Phase -> those of them that are attention scores and their use."""
    saved: dict[str, int]
    """Part -> bytes of activations kept for the backward pass."""
    peak: int
    """Most bytes of activations at any moment, gradients of weights not counted."""
    peak_with_gradients: int

    @property
    def total_flops(self) -> int:
        return sum(sum(phases.values()) for phases in self.flops.values())

    @property
    def activations(self) -> int:
        """Bytes kept for the backward pass."""
        return sum(self.saved.values())


def parts(model: SpeechLM) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose costs are told apart, under the names they are told by."""
    yield f"encoder ({'trained' if model.encoder.kind.trains else 'frozen'})", model.encoder
    yield "connector", model.connector
    yield "embeddings", model.get_input_embeddings()
    for layer in model.llm.get_decoder().layers:
        yield _kind(layer), layer
    yield LM_HEAD, model.get_output_embeddings()


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, InsertedLayer):
        return "inserted layers"
    if any(isinstance(module, LoraLayer) for module in layer.modules()):
        return "base layers (LoRA)"
    return f"base layers ({'trained' if any(p.requires_grad for p in layer.parameters()) else 'frozen'})"


def measure(
    model: SpeechLM,
    batch: Batch,
    loss: Callable[[Batch], torch.Tensor],
    audio_seconds: float = 0.0,
    autocast: bool = False,
) -> Step:
    """Run `loss` and its backward pass on a model without contents.

    Args:
        model: emptied by `drop_contents`; what else `loss` uses must come from the same fake mode.
        batch: real ids, lengths and masks; features on the meta device.
        autocast: compute in bfloat16, as training on a GPU does.
    """
    mode = next(model.parameters()).fake_mode
    with mode:
        batch = {k: torch.empty(v.shape, dtype=v.dtype) if v.is_meta else v for k, v in batch.items()}
    known = [*model.parameters(), *model.buffers(), *(v for v in batch.values() if v.is_floating_point())]
    with Meter(parts(model), known) as meter:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss(batch)
        saved = {part: size for part, size in meter.live.items() if size}
        value.backward()
    model.zero_grad(set_to_none=True)
    flops: dict[str, dict[str, int]] = {}
    for (part, phase), count in meter.flops.items():
        flops.setdefault(part, {})[phase] = count
    positions = int(batch["attention_mask"].sum())
    speech = int((batch["input_ids"] == model.config.audio_token_id).sum())
    return Step(
        audio_seconds=audio_seconds,
        speech_tokens=speech,
        text_tokens=positions - speech,
        flops=flops,
        attention=dict(meter.attention),
        saved=saved,
        peak=meter.peak,
        peak_with_gradients=meter.peak_with_gradients,
    )
