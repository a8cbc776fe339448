"""Speech encoders: features in, frames out. One interface, two kinds: `fbank` and any Hugging Face audio encoder."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedConfig, WhisperFeatureExtractor

from depthup.config import EncoderConfig
from depthup.errors import UserError

MEL_FRAME_RATE = 100
"""Log-mel frames per second."""


def frame_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """[N] -> [N, size] bool, true where a frame is real."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def halved(lengths: torch.Tensor) -> torch.Tensor:
    """Frames left of a convolution with kernel 3, stride 2, padding 1."""
    return (lengths + 1) // 2


class FbankEncoder(nn.Module):
    """Log-mel features, normalised per clip, through two strided convolutions and a gated one: 25 frames a second."""

    frame_rate = MEL_FRAME_RATE / 4
    trains = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.output_size = config.width
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.width, 3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(config.width) for _ in range(3))

    @staticmethod
    def output_lengths(lengths: torch.Tensor) -> torch.Tensor:
        return halved(halved(lengths))

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """features [N, T, mel bins], lengths [N] -> frames [N, T/4, width], lengths [N]."""
        real = frame_mask(lengths, features.shape[1])[..., None]
        features = features * real
        mean = features.sum(1, keepdim=True) / lengths[:, None, None]
        x = (features - mean) * real
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2), (self.conv3, self.norm3)):
            x = F.gelu(norm(conv(x.transpose(1, 2)).transpose(1, 2)))
            if conv.stride[0] == 2:
                lengths = halved(lengths)
            x = x * frame_mask(lengths, x.shape[1])[..., None]
        return x, lengths


class WhisperEncoder(nn.Module):
    """A Whisper encoder run on clips of any length up to 30 s, with padding masked; 50 frames a second."""

    def __init__(self, model: nn.Module, trains: bool, pad_to_30s: bool) -> None:
        super().__init__()
        self.model = model
        self.trains = trains
        self.pad_to_30s = pad_to_30s
        self.output_size = model.config.d_model
        self.frame_rate = MEL_FRAME_RATE / 2

    @staticmethod
    def output_lengths(lengths: torch.Tensor) -> torch.Tensor:
        return halved(lengths)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """features [N, T, mel bins], lengths [N] -> frames [N, T/2, d_model], lengths [N]."""
        model, out_lengths = self.model, halved(lengths)
        if self.pad_to_30s:
            frames = model(features.transpose(1, 2)).last_hidden_state
            return frames[:, : int(out_lengths.max())], out_lengths
        real = frame_mask(lengths, features.shape[1])[:, None]
        x = F.gelu(model.conv1(features.transpose(1, 2) * real)) * real
        x = F.gelu(model.conv2(x)).transpose(1, 2)
        x = x + model.embed_positions.weight[: x.shape[1]]
        out_real = frame_mask(out_lengths, x.shape[1])
        mask = None if bool(out_real.all()) else out_real[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        for layer in model.layers:
            x = layer(x, mask)
        return model.layer_norm(x), out_lengths


class WaveformEncoder(nn.Module):
    """wav2vec 2.0, HuBERT, WavLM and their kin: raw samples in, about 50 frames a second out."""

    frame_rate = 50.0

    def __init__(self, model: nn.Module, trains: bool) -> None:
        super().__init__()
        self.model = model
        self.trains = trains
        self.output_size = model.config.hidden_size
        # Group norm over time lets padding into every frame, so these models see one clip at a time.
        self.clip_by_clip = getattr(model.config, "feat_extract_norm", "layer") == "group"

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return self.model._get_feat_extract_output_lengths(lengths)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """features [N, samples, 1], lengths [N] -> frames [N, T, hidden], lengths [N]."""
        samples, out_lengths = features[..., 0], self.output_lengths(lengths)
        if self.clip_by_clip:
            rows = zip(samples, lengths.tolist(), strict=True)
            clips = [self.model(row[None, :n]).last_hidden_state[0] for row, n in rows]
            return nn.utils.rnn.pad_sequence(clips, batch_first=True), out_lengths
        mask = frame_mask(lengths, samples.shape[1]).long()
        return self.model(samples, attention_mask=mask).last_hidden_state, out_lengths


def _load(auto_class: Any, name: str, **kwargs: Any) -> Any:
    try:
        return auto_class.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        raise UserError(f"encoder {name}: cannot load it as a Hugging Face audio encoder ({_line(error)})") from error


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def load_encoder_config(name: str) -> PreTrainedConfig:
    """The configuration of a Hugging Face encoder, from the hub, a directory or a `config.json`. Raises UserError."""
    return _load(AutoConfig, name)


def build_encoder(config: EncoderConfig, hf_config: PreTrainedConfig | None, load_weights: bool) -> nn.Module:
    """The encoder that `config` names; `load_weights` fetches those of a Hugging Face encoder, else they are random."""
    if config.name == "fbank":
        return FbankEncoder(config)
    hf_config = hf_config or load_encoder_config(config.name)
    if load_weights:
        model = _load(AutoModel, config.name, dtype=torch.float32)
    else:
        model = AutoModel.from_config(hf_config)
    if hf_config.model_type == "whisper":
        return WhisperEncoder(model.get_encoder(), config.train, config.pad_to_30s)
    if not hasattr(model, "_get_feat_extract_output_lengths"):
        raise UserError(f"encoder {config.name}: {hf_config.model_type} models are not supported as speech encoders")
    model.config.apply_spec_augment = False  # masking belongs to the recipe's augmentation
    return WaveformEncoder(model, config.train)


def build_feature_extractor(config: EncoderConfig) -> Any:
    """The Hugging Face feature extractor that fits the encoder."""
    if config.name == "fbank":
        return WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    return _load(AutoFeatureExtractor, config.name)


def encode(encoder: nn.Module, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run an encoder, without gradients when it is frozen."""
    if not encoder.trains:
        encoder.eval()
    with nullcontext() if encoder.trains else torch.no_grad():
        return encoder(features, lengths)
