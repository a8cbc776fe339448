"""Acoustic tokens: the codebooks of a neural codec."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from depthup.errors import UserError, not_loaded
from depthup.model.encoders.kind import SAMPLING_RATE
from depthup.model.fingerprint import fingerprint

CODEBOOKS = {"encodec": "num_quantizers", "dac": "n_codebooks", "mimi": "num_quantizers"}
"""Kinds of codec, by `model_type`, and what their configurations call the number of codebooks."""


class Codec(nn.Module):
    """The first codebooks of a frozen EnCodec, DAC or Mimi: residual vector quantisation, coarse to fine."""

    def __init__(self, name: str, streams: int | None = None) -> None:
        """`streams` codebooks are used, by default all. Raises UserError where the codec has no such streams."""
        super().__init__()
        config = _load(AutoConfig, name)
        if config.model_type not in CODEBOOKS:
            raise UserError(
                f"codec {name}: {config.model_type} is no neural codec known here; {', '.join(CODEBOOKS)} are"
            )
        if getattr(config, "audio_channels", 1) != 1 or getattr(config, "chunk_length_s", None):
            raise UserError(f"codec {name}: codes stereo or in chunks; take one of mono and any length, such as 24 kHz")
        there = getattr(config, CODEBOOKS[config.model_type])
        self.streams = there if streams is None else streams
        if not 1 <= self.streams <= there:
            raise UserError(f"codec {name}: {self.streams} streams of {there} codebooks; choose from 1 to {there}")
        self.sampling_rate, self.hop = config.sampling_rate, _hop(config)
        self.frame_rate = self.sampling_rate / self.hop
        self.codebook_size = config.codebook_size
        self.model = _load(AutoModel, name, dtype=torch.float32).eval().requires_grad_(False)
        self.hash = fingerprint(self.model)

    @torch.no_grad()
    def forward(self, samples: np.ndarray) -> torch.Tensor:
        """One clip [samples] at 16 kHz -> ids [T, streams], of which the last frame may be padded with silence."""
        if self.sampling_rate != SAMPLING_RATE:
            samples = soxr.resample(samples, SAMPLING_RATE, self.sampling_rate)
        samples = np.pad(samples, (0, -len(samples) % self.hop if len(samples) else self.hop))
        audio = torch.from_numpy(samples)[None, None].to(next(self.model.parameters()).device)
        kind = self.model.config.model_type
        if kind == "encodec":  # all codebooks at its highest bandwidth; each is the same whatever follows it
            codes = self.model.encode(audio, bandwidth=self.model.config.target_bandwidths[-1]).audio_codes[0]
        elif kind == "dac":
            codes = self.model.encode(audio, n_quantizers=self.streams).audio_codes
        else:
            codes = self.model.encode(audio, num_quantizers=self.streams).audio_codes
        return codes[0, : self.streams].T.long()


def _hop(config: PreTrainedConfig) -> int:
    """Samples per frame."""
    return config.hop_length if hasattr(config, "hop_length") else round(config.sampling_rate / config.frame_rate)


def _load(auto_class: Any, name: str, **kwargs: Any) -> Any:
    try:
        return auto_class.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        raise not_loaded("codec", name, "neural codec", error) from error
