"""Where and how layers go into a base model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from depthup.config import Method, Scope, UpscaleConfig
from depthup.errors import UserError
from depthup.model.layers.e_branchformer import EBranchformerBlock
from depthup.model.layers.inserted import InsertedLayer
from depthup.model.layers.transformer import TransformerBlock


def placement_indices(config: UpscaleConfig, num_base_layers: int) -> list[int]:
    """For each inserted layer the base layer it follows, in rising order.

    With scope `speech` nothing reads the speech positions after the last base layer, so no layer goes there.
    Raises UserError for a placement that does not fit the base.
    """
    places = num_base_layers - 1 if config.scope == "speech" else num_base_layers
    n = config.num_layers
    if isinstance(config.placement, list):
        if len(config.placement) != n:
            raise UserError(f"upscale.placement names {len(config.placement)} places for upscale.num_layers {n}")
        if not all(0 <= i < places for i in config.placement):
            raise UserError(f"upscale.placement {config.placement}: indices must be from 0 to {places - 1} here")
        return sorted(config.placement)
    if n > places:
        raise UserError(f"upscale.num_layers {n}: the base has {places} places; name places twice to stack layers")
    if config.placement == "bottom":
        return list(range(n))
    if config.placement == "top":
        return list(range(places - n, places))
    return [k * places // n for k in range(n)]


def upscaled_config(base: PreTrainedConfig, upscale: UpscaleConfig) -> PreTrainedConfig:
    """The base's configuration with the inserted layers counted, and typed like the layers below them."""
    config = copy.deepcopy(base)
    indices = placement_indices(upscale, base.num_hidden_layers)
    config.num_hidden_layers = base.num_hidden_layers + len(indices)
    if getattr(base, "layer_types", None):
        config.layer_types = [kind for i, kind in enumerate(base.layer_types) for _ in range(1 + indices.count(i))]
    return config


def insert_layers(llm: PreTrainedModel, upscale: UpscaleConfig, seed: int = 0) -> list[int]:
    """Insert layers into `llm` in place; straight afterwards it computes exactly what it computed before.

    Returns the indices of the inserted layers in the new list of layers. `seed` decides random initial weights.
    Raises UserError where the base's family cannot carry inserted layers.
    """
    decoder = llm.get_decoder()
    layers = getattr(decoder, "layers", None)
    takes_kwargs = any(p.kind == p.VAR_KEYWORD for p in inspect.signature(decoder.forward).parameters.values())
    if not isinstance(layers, nn.ModuleList) or not takes_kwargs:
        raise UserError(f"base model {type(llm).__name__}: its decoder hands no arguments on to a list of layers")
    config = upscaled_config(llm.config, upscale)
    indices = placement_indices(upscale, len(layers))
    weight = next(layers.parameters())
    new_layers: list[nn.Module] = []
    inserted: list[int] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i, base_layer in enumerate(layers):
            new_layers.append(base_layer)
            for _ in range(indices.count(i)):
                block = _make_block(upscale, config, base_layer, len(new_layers)).to(weight.device, weight.dtype)
                inserted.append(len(new_layers))
                new_layers.append(InsertedLayer(block, len(new_layers), upscale.scope))
    _set_layers(llm, nn.ModuleList(new_layers), config)
    return inserted


@contextmanager
def without_inserted(llm: PreTrainedModel) -> Iterator[None]:
    """Within it the base's own layers stand alone, and its configuration counts no others."""
    layers, config = llm.get_decoder().layers, llm.config
    own = [i for i, layer in enumerate(layers) if not isinstance(layer, InsertedLayer)]
    base_config = copy.deepcopy(config)
    base_config.num_hidden_layers = len(own)
    if getattr(config, "layer_types", None):
        base_config.layer_types = [config.layer_types[i] for i in own]
    _set_layers(llm, nn.ModuleList(layers[i] for i in own), base_config)
    try:
        yield
    finally:
        _set_layers(llm, layers, config)


def _set_layers(llm: PreTrainedModel, layers: nn.ModuleList, config: PreTrainedConfig) -> None:
    decoder = llm.get_decoder()
    decoder.layers = layers
    for i, layer in enumerate(layers):
        _set_layer_idx(layer, i)
    for module in (llm, decoder):
        module.config = config


def _set_layer_idx(layer: nn.Module, index: int) -> None:
    for module in layer.modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx = index


def _make_block(upscale: UpscaleConfig, config: PreTrainedConfig, below: nn.Module, index: int) -> nn.Module:
    if upscale.layer == "transformer":
        return TransformerBlock(below, index, causal=upscale.scope != "speech", copy_weights=upscale.init == "copy")
    return EBranchformerBlock(upscale, config, index, below)


def inserted_layers(llm: PreTrainedModel) -> list[InsertedLayer]:
    """The inserted layers of a model, lowest first."""
    return [layer for layer in llm.get_decoder().layers if isinstance(layer, InsertedLayer)]


def base_linears(llm: PreTrainedModel) -> list[str]:
    """Names, within the decoder, of the linears in the base's own layers."""
    inserted = tuple(f"layers.{layer.layer_idx}." for layer in inserted_layers(llm))
    return [
        name
        for name, module in llm.get_decoder().named_modules()
        if isinstance(module, nn.Linear) and name.startswith("layers.") and not name.startswith(inserted)
    ]


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
