"""What a layer can take from a base of any family: its attention, feed-forward and norms, by the names they go by."""

from __future__ import annotations

import inspect
from typing import Any, Optional

import torch
from torch import nn

from depthup.errors import UserError
from depthup.model.layers.kind import Place, View

ATTENTION = ("self_attn", "attention", "attn")
FEED_FORWARD = ("mlp", "feed_forward", "shared_mlp")
BEFORE_ATTENTION = ("input_layernorm", "operator_norm", "self_attn_layer_norm")
BEFORE_FEED_FORWARD = ("pre_feedforward_layernorm", "pre_ff_layernorm", "ffn_norm", "post_attention_layernorm")
INNER_WIDTH = ("intermediate_size", "ffn_dim", "ffn_hidden_size")
CACHE = ("past_key_values", "layer_past", "past_key_value")


def attention_of(layer: nn.Module) -> Optional[nn.Module]:
    """A base layer's attention over keys and values; None in layers that mix positions otherwise, or not at all."""
    return _first(layer, ATTENTION)


def nearest_attention(place: Place) -> nn.Module:
    """The attention of the layer below, or in hybrids of the layer nearest to it that has one. Raises UserError."""
    below = next(i for i, layer in enumerate(place.base_layers) if layer is place.below)
    for i in sorted(range(len(place.base_layers)), key=lambda i: abs(i - below)):
        if (found := attention_of(place.base_layers[i])) is not None:
            return found
    raise UserError(f"base: no {type(place.below).__name__} in it has attention, which inserted layers take from it")


def dense_feed_forward_of(layer: nn.Module, width: int) -> Optional[nn.Module]:
    """A base layer's feed-forward where it is two or three linears; a mixture of experts is none."""
    module = _first(layer, FEED_FORWARD)
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)] if module is not None else []
    known = sum(p.numel() for linear in linears for p in linear.parameters())
    if module is None or not 2 <= len(linears) <= 3 or known != sum(p.numel() for p in module.parameters()):
        return None
    return module if linears[-1].out_features == width else None


def norm_before_attention(layer: nn.Module) -> Optional[nn.Module]:
    """None where the base normalises what attention puts out, as OLMo 2 and EXAONE 4 do."""
    return _first(layer, BEFORE_ATTENTION)


def norm_before_feed_forward(layer: nn.Module) -> Optional[nn.Module]:
    """Attention's own where both read the same, as in Phi and Cohere; None where the base normalises behind it."""
    if norm_before_attention(layer) is None:
        return None
    return _first(layer, BEFORE_FEED_FORWARD) or norm_before_attention(layer)


def inner_width(llm_config: Any) -> int:
    """Inner width of a base's feed-forwards, by whichever name its configuration has for it."""
    widths = [getattr(llm_config, name, None) for name in INNER_WIDTH]
    return next((width for width in widths if isinstance(width, int)), 4 * llm_config.hidden_size)


def attend(attention: nn.Module, states: torch.Tensor, view: View) -> torch.Tensor:
    """What a base's attention puts out for `states` [N, L, D] of a view."""
    return attention(
        hidden_states=states,
        attention_mask=view.attention_mask,
        position_ids=view.position_ids,
        position_embeddings=view.position_embeddings,
        **{cache_argument(type(attention)): view.cache},
    )[0]


def cache_argument(kind: Any) -> str:
    """What a class of attention, or of layer, calls its cache."""
    names = inspect.signature(kind.forward).parameters
    return next((name for name in CACHE if name in names), CACHE[0])


def _first(layer: nn.Module, names: tuple[str, ...]) -> Optional[nn.Module]:
    found = (getattr(layer, name, None) for name in names)
    return next((module for module in found if isinstance(module, nn.Module)), None)
