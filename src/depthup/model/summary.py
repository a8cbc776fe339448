"""What a model is made of, and how much of it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from depthup.config import Method, Scope
from depthup.model.layers.inserted import InsertedLayer
from depthup.model.quantized import count


@dataclass
class ModelSummary:
    """What an upscaled model is made of."""

    method: Method
    scope: Scope
    rows: list[tuple[str, str, int, int]]
    """(place, kind, parameters, trainable parameters), in the order of the data's way."""
    base_parameters: int

    @property
    def trainable(self) -> int:
        return sum(row[3] for row in self.rows)

    @property
    def total(self) -> int:
        return sum(row[2] for row in self.rows)

    @property
    def share_of_full(self) -> float:
        """Trainable parameters as a share of what full fine-tuning of the same system trains."""
        front = sum(row[3] for row in self.rows if row[0] in ("encoder", "connector"))
        return self.trainable / (self.base_parameters + front)


def summarize(model: Any) -> ModelSummary:
    """That of a `SpeechLM`."""
    rows = []

    def add(place: str, kind: str, module: nn.Module) -> None:
        parameters = list(module.parameters())
        trainable = sum(count(p) for p in parameters if p.requires_grad)
        rows.append((place, kind, sum(count(p) for p in parameters), trainable))

    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    add("encoder", (model.config.encoder or {})["name"], model.encoder)
    add("connector", model.connector.config.name, model.connector)
    add("embeddings", "base", embeddings)
    upscale = model.config.upscale_config
    base_index = 0
    for i, layer in enumerate(model.llm.get_decoder().layers):
        inserted = isinstance(layer, InsertedLayer)
        kind = f"inserted {upscale.layer}" if upscale and inserted else f"base layer {base_index}"
        base_index += not inserted
        add(f"layer {i}", kind, layer)
    if head.weight is not embeddings.weight:
        add("LM head", "base", head)
    return ModelSummary(model.config.method, model.scope, rows, model.base_parameters)
