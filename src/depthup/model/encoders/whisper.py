"""Whisper's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask

from depthup.config import EncoderConfig
from depthup.model.encoders.kind import SAMPLING_RATE, halved
from depthup.model.encoders.mel import LogMel
from depthup.model.encoders.writer import Writer, frame_mask


class Whisper(LogMel):
    """A Whisper encoder on clips of any length up to 30 s, with padding masked; 50 frames a second."""

    model_types: ClassVar[tuple[str, ...]] = ("whisper",)
    never_train = ("conv", "embed_positions")

    def __init__(self, config: EncoderConfig, hf_config: PreTrainedConfig) -> None:
        super().__init__(config, hf_config)
        self.feature_size, self.output_size = hf_config.num_mel_bins, hf_config.d_model
        self.frame_rate = self.feature_rate / 2
        self.longest = round(hf_config.max_source_positions / self.frame_rate * SAMPLING_RATE)
        if config.decoder:
            self.writer = Writer(config, hf_config)
        if config.pad_to_30s:
            self.padded_length = 2 * hf_config.max_source_positions

    def pad(self, clips: Sequence[np.ndarray]) -> torch.Tensor:
        if self.padded_length is None:
            return super().pad(clips)
        # Silence lies 8 orders of magnitude under a clip's loudest moment, which the extractor scales to 2.
        padded = torch.empty(len(clips), self.padded_length, self.feature_size)
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

    def encode(self, model: Any, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        model = model.encoder if self.config.decoder else model
        out_lengths = self.output_lengths(lengths)
        if self.padded_length is not None:
            return model(features.transpose(1, 2)).last_hidden_state[:, : int(out_lengths.max())]
        real = frame_mask(lengths, features.shape[1])[:, None]
        x = F.gelu(model.conv1(features.transpose(1, 2) * real)) * real
        x = F.gelu(model.conv2(x)).transpose(1, 2)
        x = x + model.embed_positions.weight[: x.shape[1]]
        out_real = frame_mask(out_lengths, x.shape[1])
        mask = None
        if not bool(out_real.all()):
            mask = create_bidirectional_mask(config=model.config, inputs_embeds=x, attention_mask=out_real.long())
        for layer in model.layers:
            x = layer(x, mask)
        return self.finish(model, x)

    def finish(self, model: Any, x: torch.Tensor) -> torch.Tensor:
        """What comes after the layers."""
        return model.layer_norm(x)
