"""`fbank`: log-mel features, convolutions and E-Branchformer layers, trained from scratch."""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, PreTrainedConfig, WhisperFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask

from depthup.config import EncoderConfig
from depthup.model.encoders.kind import SpeechEncoder, halved
from depthup.model.encoders.mel import LogMel
from depthup.model.encoders.writer import frame_mask
from depthup.model.layers.attention import SelfAttention
from depthup.model.layers.e_branchformer import ConvolutionalGatingMLP, DepthwiseConv, FeedForward

HEAD_SIZE = 64
KERNEL = 15
"""Frames that the layers' convolutions see, 0.6 s."""


class Fbank(LogMel):
    """Log-mel features, normalised per clip, through convolutions, two of them strided: 25 frames a second."""

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
    """The convolutions, and the layers behind them."""

    def __init__(self, kind: Fbank) -> None:
        super().__init__(kind)
        width = kind.output_size
        self.conv1 = nn.Conv1d(kind.feature_size, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        heads = max(1, width // HEAD_SIZE)
        # What attention and masks ask for, in the form in which they ask a base for it.
        self.shape = LlamaConfig(hidden_size=width, num_attention_heads=heads, head_dim=width // heads)
        self.shape._attn_implementation = "sdpa"
        self.layers = nn.ModuleList(EBranchformerLayer(self.shape) for _ in range(kind.config.num_layers))

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
        if not self.layers:
            return x
        real = frame_mask(lengths, x.shape[1])
        mask = create_bidirectional_mask(config=self.shape, inputs_embeds=x, attention_mask=real.long())
        for layer in self.layers:
            x = layer(x, real, mask)
        return x


class EBranchformerLayer(nn.Module):
    """Attention beside a convolutional branch, merged, then a feed-forward, as inserted layers but random at first."""

    def __init__(self, shape: LlamaConfig) -> None:
        super().__init__()
        width = shape.hidden_size
        self.norm_mha, self.norm_mlp, self.norm_ff = (nn.LayerNorm(width) for _ in range(3))
        self.attn = SelfAttention(width, shape)
        self.cgmlp = ConvolutionalGatingMLP(width, 4 * width, KERNEL, 0.0)
        self.depthwise_conv_fusion = DepthwiseConv(2 * width, KERNEL)
        self.merge_proj = nn.Linear(2 * width, width)
        self.feed_forward = FeedForward(width, 2 * width, 0.0)

    def forward(self, x: torch.Tensor, real: torch.Tensor, mask: Any) -> torch.Tensor:
        """x [N, T, width], real [N, T] bool, attention mask -> [N, T, width]."""
        places = torch.arange(x.shape[1], device=x.device)[None]
        attended, _ = self.attn(self.norm_mha(x), mask, places, None)
        both = torch.cat([attended, self.cgmlp(self.norm_mlp(x), real)], -1)
        x = x + self.merge_proj(both + self.depthwise_conv_fusion(both, real))
        return x + self.feed_forward(self.norm_ff(x))
