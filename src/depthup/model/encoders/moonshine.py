"""Moonshine's encoder (Jeffries et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from depthup.config import EncoderConfig
from depthup.model.encoders.waveform import Samples


class Moonshine(Samples):
    """Three convolutions over samples, 41.67 frames a second; group norm over time lets padding into every frame."""

    model_types = ("moonshine",)
    leaks = True

    def __init__(self, config: EncoderConfig, hf_config: PreTrainedConfig) -> None:
        super().__init__(config, hf_config, convolutions=[(127, 64), (7, 3), (3, 2)])
        self.output_size = hf_config.hidden_size

    def model(self, load_weights: bool) -> Any:
        return super().model(load_weights).encoder

    def encode(self, model: Any, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return model(features[..., 0]).last_hidden_state
