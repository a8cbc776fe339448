"""wav2vec 2.0, HuBERT, WavLM and their kin: encoders of raw samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig

from depthup.config import EncoderConfig
from depthup.model.encoders.kind import SAMPLING_RATE, EncoderKind, FeatureTransform
from depthup.model.encoders.writer import frame_mask

SEE_PADDING = ("wav2vec2-conformer", "data2vec-audio", "sew", "sew-d")
"""Models whose later convolutions or pooling do not mask padding."""


class Samples(EncoderKind):
    """Encoders that hear the samples themselves, through strided convolutions."""

    feature_rate = float(SAMPLING_RATE)
    feature_size = 1
    has_mel = False

    def __init__(
        self, config: EncoderConfig, hf_config: PreTrainedConfig, convolutions: Sequence[tuple[int, int]]
    ) -> None:
        """`convolutions`: kernel and stride of each, lowest first."""
        super().__init__(config, hf_config)
        self.convolutions = convolutions
        self.frame_rate = SAMPLING_RATE / math.prod(stride for _, stride in convolutions)
        self.shortest = 1
        for kernel, stride in reversed(convolutions):
            self.shortest = (self.shortest - 1) * stride + kernel

    def features(
        self, extractor: Any, samples: np.ndarray, transform: Optional[FeatureTransform], device: str
    ) -> np.ndarray:
        values = extractor(samples, sampling_rate=extractor.sampling_rate)["input_values"][0]
        return np.asarray(values, dtype=np.float32)[:, None]

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        for kernel, stride in self.convolutions:
            lengths = (lengths - kernel) // stride + 1
        return lengths


class Waveform(Samples):
    """wav2vec 2.0's shape: convolutions, mostly to 50 frames a second, and a transformer over them."""

    model_types = (
        *("wav2vec2", "wav2vec2-conformer", "hubert", "wavlm", "data2vec-audio"),
        *("unispeech", "unispeech-sat", "sew", "sew-d"),
    )

    def __init__(self, config: EncoderConfig, hf_config: PreTrainedConfig) -> None:
        convolutions = list(zip(hf_config.conv_kernel, hf_config.conv_stride, strict=True))
        self.output_size = hf_config.hidden_size
        has_adapter = getattr(hf_config, "add_adapter", False)
        if has_adapter:
            convolutions += [(1, hf_config.adapter_stride)] * hf_config.num_adapter_layers
            self.output_size = hf_config.output_hidden_size
        super().__init__(config, hf_config, convolutions)
        # Group norm over time lets padding into every frame, adapters into the last one.
        group_norm = getattr(hf_config, "feat_extract_norm", "layer") == "group"
        self.leaks = group_norm or has_adapter or hf_config.model_type in SEE_PADDING
        if squeezed := getattr(hf_config, "squeeze_factor", 0):  # frames that SEW makes one of, within
            self.shortest += (squeezed - 1) * round(SAMPLING_RATE / self.frame_rate)

    def encode(self, model: nn.Module, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        samples = features[..., 0]
        mask = None if self.leaks else frame_mask(lengths, samples.shape[1]).long()
        return model(samples, attention_mask=mask).last_hidden_state
