"""wav2vec 2.0, HuBERT, WavLM and their kin: encoders of raw samples."""

from __future__ import annotations

import math
from typing import Any, Optional

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig

from depthup.config import EncoderConfig
from depthup.model.encoders.kind import SAMPLING_RATE, EncoderKind, FeatureTransform
from depthup.model.encoders.writer import frame_mask

SEE_PADDING = ("wav2vec2-conformer", "data2vec-audio")
"""Models whose later convolutions do not mask padding."""


class Waveform(EncoderKind):
    """Samples through strided convolutions, mostly to 50 frames a second, and a transformer over them."""

    model_types = (
        *("wav2vec2", "wav2vec2-conformer", "hubert", "wavlm", "data2vec-audio"),
        *("unispeech", "unispeech-sat", "sew", "sew-d"),
    )
    feature_rate = float(SAMPLING_RATE)
    feature_size = 1

    def __init__(self, config: EncoderConfig, hf_config: PreTrainedConfig) -> None:
        super().__init__(config, hf_config)
        self.convolutions = list(zip(hf_config.conv_kernel, hf_config.conv_stride, strict=True))
        self.output_size = hf_config.hidden_size
        if getattr(hf_config, "add_adapter", False):
            self.convolutions += [(1, hf_config.adapter_stride)] * hf_config.num_adapter_layers
            self.output_size = hf_config.output_hidden_size
        self.frame_rate = SAMPLING_RATE / math.prod(stride for _, stride in self.convolutions)
        self.shortest = 1
        for kernel, stride in reversed(self.convolutions):
            self.shortest = (self.shortest - 1) * stride + kernel
        # Group norm over time lets padding into every frame.
        group_norm = getattr(hf_config, "feat_extract_norm", "layer") == "group"
        self.leaks = group_norm or hf_config.model_type in SEE_PADDING

    def features(
        self, extractor: Any, samples: np.ndarray, transform: Optional[FeatureTransform], device: str
    ) -> np.ndarray:
        values = extractor(samples, sampling_rate=extractor.sampling_rate)["input_values"][0]
        return np.asarray(values, dtype=np.float32)[:, None]

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        for kernel, stride in self.convolutions:
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def model(self, load_weights: bool) -> nn.Module:
        model: Any = super().model(load_weights)
        model.config.apply_spec_augment = False  # masking belongs to the recipe's augmentation
        return model

    def encode(self, model: nn.Module, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        samples = features[..., 0]
        mask = None if self.leaks else frame_mask(lengths, samples.shape[1]).long()
        return model(samples, attention_mask=mask).last_hidden_state
