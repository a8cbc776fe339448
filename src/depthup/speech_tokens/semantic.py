"""Semantic tokens: the nearest cluster of each frame of an audio encoder's layer."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import torch
from torch import nn

from depthup.config import EncoderConfig
from depthup.errors import UserError
from depthup.model.encoders import encoder_kind
from depthup.model.fingerprint import fingerprint

LISTS = ("layers", "layer")
"""What audio encoders call the list of their transformer layers."""


class LayerFrames(nn.Module):
    """What a layer of a frozen audio encoder says of a clip, as it leaves the layer.

    It is transformers' `hidden_states[layer]`, which of some encoders shows the topmost layer behind the last norm.
    """

    def __init__(self, name: str, layer: Optional[int] = None) -> None:
        """`layer` counts from 1; None is the encoder's output. Raises UserError."""
        super().__init__()
        self.kind = encoder_kind(EncoderConfig(name=name))
        if self.kind.trains:
            raise UserError(f"encoder {name}: has no weights to begin with; name a Hugging Face audio encoder")
        self.extractor = self.kind.feature_extractor()
        self.encoder = self.kind.build(load_weights=True).eval().requires_grad_(False)
        self.hash = fingerprint(self.encoder.model)
        self.name, self.layer = name, layer
        self.states: Optional[torch.Tensor] = None
        if layer is not None:
            self._stop_after(layer)

    def _stop_after(self, layer: int) -> None:
        """Keep the lowest layers only; the topmost of them leaves its states here."""
        model: Any = self.encoder.model
        size = model.config.num_hidden_layers
        named = [
            (path, module)
            for path, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == size and path.rpartition(".")[2] in LISTS
        ]
        if not named or not 1 <= layer <= size:
            raise UserError(f"encoder {self.name}: has no layer {layer}; choose from 1 to {size}, or leave it out")
        path, layers = named[0]
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layers[:layer])
        layers[layer - 1].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.states = output[0] if isinstance(output, tuple) else output

    @torch.no_grad()
    def forward(self, samples: np.ndarray) -> torch.Tensor:
        """One clip [samples] at 16 kHz -> frames [T, size], float32."""
        device = next(self.encoder.parameters()).device
        samples = np.pad(samples, (0, max(0, self.kind.shortest - len(samples))))
        features = self.kind.features(self.extractor, samples, None, str(device))
        self.states = None
        frames, lengths = self.encoder(
            self.kind.pad([features]).to(device), torch.tensor([len(features)], device=device)
        )
        if self.states is not None:
            frames = self.states[:, : int(lengths)] if self.kind.thins else self.states
        if frames.shape[1] != int(lengths):
            raise UserError(f"encoder {self.name}: layer {self.layer} has another frame rate; leave the layer out")
        return frames[0].float()


def nearest(frames: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """frames [T, size], centroids [clusters, size] -> the number [T] of the nearest one by Euclidean distance."""
    return (centroids.square().sum(1) / 2 - frames @ centroids.T).argmin(1)
