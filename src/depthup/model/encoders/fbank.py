"""`fbank`: log-mel features and convolutions, trained from scratch."""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig, WhisperFeatureExtractor

from depthup.config import EncoderConfig
from depthup.model.encoders.kind import SpeechEncoder, halved
from depthup.model.encoders.mel import LogMel
from depthup.model.encoders.writer import frame_mask


class Fbank(LogMel):
    """Log-mel features, normalised per clip, through two strided convolutions and a gated one: 25 frames a second."""

    names = ("fbank",)

    def __init__(self, config: EncoderConfig, hf_config: Optional[PreTrainedConfig] = None) -> None:
        super().__init__(config, hf_config)
        self.trains = True
        self.feature_size, self.output_size = config.num_mel_bins, config.width
        self.frame_rate = self.feature_rate / 4

    def feature_extractor(self) -> Any:
        return WhisperFeatureExtractor(feature_size=self.feature_size)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return halved(halved(lengths))

    def build(self, load_weights: bool) -> SpeechEncoder:
        return FbankEncoder(self)


class FbankEncoder(SpeechEncoder):
    """The convolutions."""

    def __init__(self, kind: Fbank) -> None:
        super().__init__(kind)
        width = kind.output_size
        self.conv1 = nn.Conv1d(kind.feature_size, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def frames(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """features [N, T, mel bins], lengths [N] -> frames [N, T/4, width]."""
        real = frame_mask(lengths, features.shape[1])[..., None]
        features = features * real
        mean = features.sum(1, keepdim=True) / lengths[:, None, None]
        x = (features - mean) * real
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2), (self.conv3, self.norm3)):
            x = F.gelu(norm(conv(x.transpose(1, 2)).transpose(1, 2)))
            if conv.stride[0] == 2:
                lengths = halved(lengths)
            x = x * frame_mask(lengths, x.shape[1])[..., None]
        return x
