"""Speech2Text (fairseq S2T): a transformer over strided convolutions of filterbanks."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import torch
from transformers import PreTrainedConfig

from depthup.config import EncoderConfig
from depthup.model.encoders.kind import SAMPLING_RATE, EncoderKind, FeatureTransform


class SpeechToText(EncoderKind):
    """Kaldi's filterbanks, normalised per clip, halved by each convolution: 25 frames a second with two."""

    model_types = ("speech_to_text",)
    feature_rate = 100.0
    leaks = True  # the convolutions see each other's frames of padding

    def __init__(self, config: EncoderConfig, hf_config: PreTrainedConfig) -> None:
        super().__init__(config, hf_config)
        self.halvings = hf_config.num_conv_layers
        self.feature_size = hf_config.input_feat_per_channel * hf_config.input_channels
        self.output_size = hf_config.d_model
        self.frame_rate = self.feature_rate / 2**self.halvings
        self.shortest = 560  # two frames: the variance of one is zero
        self.longest = round(hf_config.max_source_positions / self.feature_rate * SAMPLING_RATE)

    def features(
        self, extractor: Any, samples: np.ndarray, transform: Optional[FeatureTransform], device: str
    ) -> np.ndarray:
        found = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")["input_features"][0]
        return np.asarray(transform(found) if transform else found, dtype=np.float32)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        for _ in range(self.halvings):
            lengths = (lengths - 1) // 2 + 1
        return lengths

    def model(self, load_weights: bool) -> Any:
        return super().model(load_weights).encoder

    def encode(self, model: Any, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return model(features).last_hidden_state
