"""Encoders of audio LLMs that are built as Whisper's is: Qwen2-Audio, Audio Flamingo 3, Voxtral."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from depthup.config import EncoderConfig
from depthup.model.encoders.whisper import Whisper

POOLED = ("qwen2_audio_encoder", "audioflamingo3_encoder")
"""Those that average two frames: 25 frames a second."""


class AudioLLM(Whisper):
    """The audio encoder of an audio LLM, from the LLM's own directory or id; the LLM's weights are not loaded."""

    model_types = (
        *("qwen2_audio", "qwen2_audio_encoder", "audioflamingo3", "audioflamingo3_encoder"),
        *("voxtral", "voxtral_encoder"),
    )
    heard_silence = False
    within = r"^(model\.)?audio_tower\."

    def __init__(self, config: EncoderConfig, hf_config: PreTrainedConfig) -> None:
        hf_config = getattr(hf_config, "audio_config", hf_config)
        super().__init__(config, hf_config)
        self.model_type: str = hf_config.model_type
        self.writer = None  # the text of an audio LLM is written by an LLM
        if self.pooled:
            self.frame_rate /= 2
            self.shortest = 480  # three features, of which two frames and then one

    @property
    def pooled(self) -> bool:
        return self.model_type in POOLED

    def architecture(self) -> Any:
        from transformers import AudioFlamingo3Encoder, Qwen2AudioEncoder, VoxtralEncoder

        known = {"qwen2_audio": Qwen2AudioEncoder, "audioflamingo3": AudioFlamingo3Encoder, "voxtral": VoxtralEncoder}
        return known[self.model_type.removesuffix("_encoder")]

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        halved = super().output_lengths(lengths)
        return halved // 2 if self.pooled else halved

    def finish(self, model: Any, x: torch.Tensor) -> torch.Tensor:
        if self.pooled:
            x = model.avg_pooler(x.transpose(1, 2)).transpose(1, 2)
        return super().finish(model, x)
