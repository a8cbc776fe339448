"""Whisper's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig

from depthup.config import EncoderConfig
from depthup.model.encoders.kind import SAMPLING_RATE, halved
from depthup.model.encoders.mel import LogMel
from depthup.model.encoders.silence import attention_bias, thinned
from depthup.model.encoders.writer import Writer, frame_mask

SETTLES = 8
"""Features of silence behind a clip, after which all that the convolutions give is alike."""
SETTLED = SETTLES // 2 - 2
"""Frames behind a clip's own: the last one that sees nothing but silence, for which it stands however much there is."""


class Whisper(LogMel):
    """A Whisper encoder on clips of any length up to 30 s; 50 frames a second.

    Behind each clip lies silence up to 30 s, as Whisper was trained: by few frames that count for many
    (silence.py), in full with `pad_to_30s: true`, not at all with false.
    """

    heard_silence: ClassVar[bool] = True
    """Whether it was trained with silence behind clips."""
    model_types: ClassVar[tuple[str, ...]] = ("whisper",)
    never_train = ("conv", "embed_positions")

    def __init__(self, config: EncoderConfig, hf_config: PreTrainedConfig) -> None:
        super().__init__(config, hf_config)
        self.feature_size, self.output_size = hf_config.num_mel_bins, hf_config.d_model
        self.frame_rate = self.feature_rate / 2
        self.most = hf_config.max_source_positions
        self.longest = round(self.most / self.frame_rate * SAMPLING_RATE)
        if config.decoder:
            self.writer = Writer(config, hf_config, self.counts)
        if config.pad_to_30s:
            self.padded_length = 2 * self.most
        self.thins = config.pad_to_30s is None and self.heard_silence

    def pad(self, clips: Sequence[np.ndarray]) -> torch.Tensor:
        if self.padded_length is None and not self.thins:
            return super().pad(clips)
        # Silence lies 8 orders of magnitude under a clip's loudest moment, which the extractor scales to 2.
        longest = self.padded_length or min(2 * self.most, max(len(clip) for clip in clips) + SETTLES)
        padded = torch.empty(len(clips), longest, self.feature_size)
        for row, clip in zip(padded, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(clip)
            row[len(clip) :] = float(clip.max()) - 2
        return padded

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return halved(lengths)

    def model(self, load_weights: bool) -> Any:
        whole = super().model(load_weights)
        model = whole if self.config.decoder else getattr(whole, "encoder", whole)
        if self.trains and not torch.cuda.is_available():
            model.set_attn_implementation("eager")  # the fused kernel's backward pass takes three times as long on CPUs
        return model

    def counts(self, lengths: torch.Tensor, size: int) -> torch.Tensor:
        """How many frames each of `size` frames stands for, of clips of so many real ones, [N] -> [N, size]."""
        if self.thins:
            return thinned(lengths, self.most)[1]
        if self.padded_length is not None:
            return torch.ones(len(lengths), size, dtype=torch.long, device=lengths.device)
        return frame_mask(lengths, size).long()

    def encode(self, model: Any, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        model = model.encoder if self.config.decoder else model
        if self.padded_length is not None:
            return model(features.transpose(1, 2)).last_hidden_state
        out_lengths = halved(lengths)
        x = features.transpose(1, 2)
        if self.thins:
            positions, counts = thinned(out_lengths, self.most)
            x = F.gelu(model.conv2(F.gelu(model.conv1(x)))).transpose(1, 2)
            settled = positions.minimum(out_lengths[:, None] + SETTLED).clamp(max=x.shape[1] - 1)
            x = x.gather(1, settled[..., None].expand(-1, -1, x.shape[2]).to(x.device))
            x = x + model.embed_positions.weight[positions]
        else:
            real = frame_mask(lengths, x.shape[2])[:, None]
            x = F.gelu(model.conv1(x * real)) * real
            x = F.gelu(model.conv2(x)).transpose(1, 2)
            x = x + model.embed_positions.weight[: x.shape[1]]
            counts = frame_mask(out_lengths, x.shape[1]).long()
        bias = None if bool((counts == 1).all()) else attention_bias(counts).to(x)
        for layer in model.layers:
            x = layer(x, bias)
        return self.finish(model, x)

    def finish(self, model: Any, x: torch.Tensor) -> torch.Tensor:
        """What comes after the layers."""
        return model.layer_norm(x)
