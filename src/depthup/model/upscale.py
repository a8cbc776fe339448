"""Where and how layers go into a base model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from depthup.config import UpscaleConfig
from depthup.errors import UserError
from depthup.model.layers.base_parts import attention_of
from depthup.model.layers.inserted import InsertedLayer
from depthup.model.layers.kind import Place

LAYER_TYPES = ("layers_block_type", "layer_types")
"""Fields of configurations that say what each layer is."""


def placement_indices(config: UpscaleConfig, num_base_layers: int) -> list[int]:
    """For each inserted layer the base layer it follows, in rising order (arXiv 2604.00489, 3.2).

    A named placement spreads its layers evenly over a part of the base, each after the first base layer of its share:
    which one of them the paper does not say. With scope `speech` nothing reads the speech positions after the last
    base layer, so no layer goes there. Raises UserError for a placement that does not fit the base.
    """
    places = num_base_layers - 1 if config.scope == "speech" else num_base_layers
    if isinstance(config.placement, list):
        if isinstance(config.num_layers, int) and len(config.placement) != config.num_layers:
            named = f"names {len(config.placement)} places for upscale.num_layers {config.num_layers}"
            raise UserError(f"upscale.placement {named}; leave num_layers out, or name as many")
        if not config.placement or not all(0 <= i < places for i in config.placement):
            raise UserError(f"upscale.placement {config.placement}: indices must be from 0 to {places - 1} here")
        return sorted(config.placement)
    n = config.num_layers
    if isinstance(n, float):
        n = max(1, round(n * num_base_layers))
    quarter, half = max(1, places // 4), (places + 1) // 2
    if config.placement == "sandwich":
        upper = n // 2
        return _spread(config, n - upper, 0, quarter) + _spread(config, upper, places - quarter, places)
    first = {"interleaved": 0, "bottom": 0, "middle": quarter, "top": places - half}[config.placement]
    return _spread(config, n, first, places if config.placement == "interleaved" else first + half)


def _spread(config: UpscaleConfig, n: int, first: int, end: int) -> list[int]:
    """`n` base layers, spread evenly over those from `first` to before `end`."""
    if n > end - first:
        raise UserError(
            f"upscale.num_layers {config.num_layers}: {config.placement} would put {n} layers after {end - first} "
            "of the base's; name places twice to stack layers"
        )
    return [first + k * (end - first) // n for k in range(n)]


def upscaled_config(base: PreTrainedConfig, upscale: UpscaleConfig) -> PreTrainedConfig:
    """The base's configuration with the inserted layers counted, and typed like the layers below them."""
    config = copy.deepcopy(base)
    indices = placement_indices(upscale, base.num_hidden_layers)
    config.num_hidden_layers = base.num_hidden_layers + len(indices)
    for name in LAYER_TYPES:
        if kinds := getattr(base, name, None):
            _set(config, name, [kind for i, kind in enumerate(kinds) for _ in range(1 + indices.count(i))])
    return config


def _set(config: PreTrainedConfig, name: str, kinds: list[str]) -> None:
    """Set a field that some configurations compute from others."""
    field = config.attribute_map.get(name, name)
    if isinstance(getattr(type(config), field, None), property):
        config.__class__ = type(type(config).__name__, (type(config),), {field: kinds})
    else:
        setattr(config, field, kinds)


def insert_layers(llm: PreTrainedModel, upscale: UpscaleConfig, seed: int = 0) -> list[int]:
    """Insert layers into `llm` in place; straight afterwards it computes exactly what it computed before.

    Returns the indices of the inserted layers in the new list of layers. `seed` decides random initial weights.
    Raises UserError where the base's family cannot carry inserted layers.
    """
    decoder = llm.get_decoder()
    layers = getattr(decoder, "layers", None)
    takes_kwargs = any(p.kind == p.VAR_KEYWORD for p in inspect.signature(decoder.forward).parameters.values())
    if not isinstance(layers, nn.ModuleList) or not takes_kwargs:
        raise UserError(f"base {type(llm).__name__}: its decoder hands no arguments on to a list of layers")
    if not any(attention_of(layer) for layer in layers):
        raise UserError(f"base {type(llm).__name__}: none of its layers has attention, which inserted layers need")
    base_config, indices = llm.config, placement_indices(upscale, len(layers))
    config = upscaled_config(base_config, upscale)
    _set_config(llm, config)  # first, since copies share it
    weight = next(layers.parameters())
    new_layers: list[nn.Module] = []
    inserted: list[int] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i, base_layer in enumerate(layers):
            new_layers.append(base_layer)
            for _ in range(indices.count(i)):
                cached_at = len(layers) + len(inserted)
                place = Place(base_layer, config, cached_at, upscale.scope != "speech", layers)
                block = upscale.kind.build(place).to(weight.device, weight.dtype)
                inserted.append(len(new_layers))
                new_layers.append(InsertedLayer(block, cached_at, upscale.scope))
    decoder.layers = nn.ModuleList(new_layers)
    llm.base_config = base_config  # what caches are made for, and what the base alone counts
    return inserted


@contextmanager
def without_inserted(llm: PreTrainedModel) -> Iterator[None]:
    """Within it the base's own layers stand alone, and its configuration counts no others."""
    decoder, layers, config = llm.get_decoder(), llm.get_decoder().layers, llm.config
    own = base_config_of(llm)
    own._attn_implementation = config._attn_implementation
    decoder.layers = nn.ModuleList(layer for layer in layers if not isinstance(layer, InsertedLayer))
    _set_config(llm, own)
    try:
        yield
    finally:
        decoder.layers = layers
        _set_config(llm, config)


def base_config_of(llm: PreTrainedModel) -> PreTrainedConfig:
    """The configuration of an LLM without inserted layers."""
    return getattr(llm, "base_config", llm.config)


def _set_config(llm: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Give `config` to all modules that share the LLM's, so that what is set in it later reaches them."""
    old = llm.config
    for module in llm.modules():
        if getattr(module, "config", None) is old:
            module.config = config


def inserted_layers(llm: PreTrainedModel) -> list[InsertedLayer]:
    """The inserted layers of a model, lowest first."""
    return [layer for layer in llm.get_decoder().layers if isinstance(layer, InsertedLayer)]


def base_linears(llm: PreTrainedModel) -> list[str]:
    """Names, within the decoder, of the linears in the base's own layers."""
    layers = llm.get_decoder().layers
    inserted = tuple(f"layers.{i}." for i, layer in enumerate(layers) if isinstance(layer, InsertedLayer))
    return [
        name
        for name, module in llm.get_decoder().named_modules()
        if isinstance(module, nn.Linear) and name.startswith("layers.") and not name.startswith(inserted)
    ]


def matched_rank(base: PreTrainedConfig, upscale: UpscaleConfig) -> int:
    """The largest rank with which LoRA on these linears trains no more weights than the layers of `upscale` would.

    arXiv 2604.00489, section 4: 144 for SmolLM2-360M and 356 for 1.7B. No weights are made.
    """
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(base)
        insert_layers(llm, upscale)
    inserted = sum(p.numel() for layer in inserted_layers(llm) for p in layer.parameters())
    linears: list[Any] = [llm.get_decoder().get_submodule(name) for name in base_linears(llm)]
    return max(1, inserted // sum(linear.in_features + linear.out_features for linear in linears))
