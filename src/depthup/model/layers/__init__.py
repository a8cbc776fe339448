"""The kinds of layer that are inserted into a base model, each in a file of its own with its section of the recipe."""

from __future__ import annotations

from depthup.model.layers.e_branchformer import EBranchformer
from depthup.model.layers.kind import LayerKind
from depthup.model.layers.transformer import Transformer

KINDS: dict[str, type[LayerKind]] = {
    "transformer": Transformer,
    "e_branchformer": EBranchformer,
}
"""By their name in `upscale.layer` and of their section in `upscale`. Tests and the recipe's options follow from it."""
