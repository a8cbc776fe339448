"""What a kind of inserted layer is: a section of the recipe that can build it, and what a layer sees of a batch.

Imports torch alone, since the recipe's options are made of the kinds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

import torch
from torch import nn

from depthup.model.layers.spans import Spans

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from transformers.cache_utils import Cache


@dataclass
class Place:
    """Where a layer is inserted."""

    below: Any
    """The base layer that it follows."""
    llm_config: PreTrainedConfig
    """The base's configuration, with inserted layers counted; all layers share it."""
    layer_idx: int
    """Its place in a cache: behind those of all base layers, which keep theirs."""
    causal: bool
    """Whether attention looks back only; else it looks both ways within a span of speech."""
    base_layers: Sequence[Any] = ()
    """All layers of the base."""


@dataclass
class LayerKind:
    """A kind of inserted layer; the subclass is a dataclass, and its fields are the kind's section of the recipe."""

    def build(self, place: Place) -> nn.Module:
        """A layer that maps `layer(states, view)`, [N, L, D], to [N, L, D], and starts as the identity."""
        raise NotImplementedError

    @property
    def starts_as_identity(self) -> bool:
        """Whether speech too passes through a new layer unchanged."""
        return True

    @staticmethod
    def as_base_layer(layer: nn.Module) -> Optional[nn.Module]:
        """The same as a layer of the base's own class; None where there is no such layer."""
        return None


@dataclass
class View:
    """What an inserted layer sees: whole sequences [B, T], or the spans of speech in them [N, L] and nothing else."""

    attention_mask: Optional[torch.Tensor]
    position_ids: torch.Tensor  # [N, L]
    position_embeddings: Optional[tuple[torch.Tensor, torch.Tensor]]  # the base's rotary tables, [N, L, head size]
    real: Optional[torch.Tensor] = None  # [N, L] bool, which frames are real, where all of the view is speech
    spans: Optional[Spans] = None  # where speech is in whole sequences
    cache: Optional[Cache] = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    def at_speech(self, change: Callable[..., torch.Tensor], *states: torch.Tensor) -> torch.Tensor:
        """`states[0]` with `change(*states, real)` in its place where there is speech.

        `change` gets one row per span of speech: states [N, L, D], and bool [N, L] that is false in padding.
        """
        if self.real is not None:
            return change(*states, self.real)
        if self.spans is None:
            return states[0]
        return self.spans.scatter(states[0], change(*map(self.spans.gather, states), self.spans.real))


def copied(module: nn.Module, random: bool = False) -> nn.Module:
    """A copy of a base's module, its linear layers with the same weights or with random ones.

    It shares the base's configuration, so that a kernel that is chosen later is chosen for it too.
    """
    configs = [part.config for part in module.modules() if hasattr(part, "config")]
    module = copy.deepcopy(module, {id(config): config for config in configs})
    for linear in module.modules():
        if random and isinstance(linear, nn.Linear):
            linear.reset_parameters()
    return module


def last_linear(module: nn.Module) -> nn.Linear:
    """The output projection of an attention or feed-forward module: its last linear layer."""
    return [m for m in module.modules() if isinstance(m, nn.Linear)][-1]


def zero_(layer: nn.Linear | nn.Conv1d) -> None:
    """Make a layer compute zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def attend_freely(attention: nn.Module, place: Place) -> None:
    """Give a base's attention a new place in the cache, no window, and one or both directions."""
    attention.layer_idx = place.layer_idx
    attention.is_causal = place.causal
    if hasattr(attention, "sliding_window"):
        attention.sliding_window = None
