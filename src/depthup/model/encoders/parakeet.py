"""Parakeet's encoder: NeMo's FastConformer."""

from __future__ import annotations

import math
from typing import Any, Optional

import numpy as np
import torch
from transformers import PreTrainedConfig

from depthup.config import EncoderConfig
from depthup.model.encoders.kind import EncoderKind, FeatureTransform
from depthup.model.encoders.writer import frame_mask


class Parakeet(EncoderKind):
    """Log-mel features, normalised per clip, through convolutions that leave an eighth: 12.5 frames a second."""

    model_types = ("parakeet_ctc", "parakeet_encoder", "parakeet_tdt", "parakeet_rnnt")
    within = r"^(model\.)?encoder\."
    feature_rate = 100.0
    shortest = 400

    def __init__(self, config: EncoderConfig, hf_config: PreTrainedConfig) -> None:
        hf: Any = getattr(hf_config, "encoder_config", hf_config)
        super().__init__(config, hf)
        self.feature_size, self.output_size = hf.num_mel_bins, hf.hidden_size
        self.halvings = int(math.log2(hf.subsampling_factor))
        self.frame_rate = self.feature_rate / hf.subsampling_factor

    def architecture(self) -> Any:
        from transformers import ParakeetEncoder

        return ParakeetEncoder

    def features(
        self, extractor: Any, samples: np.ndarray, transform: Optional[FeatureTransform], device: str
    ) -> np.ndarray:
        found = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")
        mel = found["input_features"][0][: int(found["attention_mask"][0].sum())]
        return np.asarray(transform(mel) if transform else mel, dtype=np.float32)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        hf: Any = self.hf_config
        kernel, stride = hf.subsampling_conv_kernel_size, hf.subsampling_conv_stride
        for _ in range(self.halvings):
            lengths = (lengths + (kernel - 1) // 2 * 2 - kernel) // stride + 1
        return lengths

    def encode(self, model: Any, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return model(features, attention_mask=frame_mask(lengths, features.shape[1])).last_hidden_state
