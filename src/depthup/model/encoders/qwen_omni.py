"""The audio encoders of Qwen2.5-Omni and Qwen3-Omni."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from depthup.config import EncoderConfig
from depthup.model.encoders.mel import LogMel
from depthup.model.encoders.writer import frame_mask


class QwenOmni(LogMel):
    """An audio encoder of a Qwen-Omni model, from that model's directory or id; its other weights are not loaded.

    Attention stays within windows, so there is no longest clip.
    """

    model_types = (
        *("qwen2_5_omni", "qwen2_5_omni_thinker", "qwen2_5_omni_audio_encoder"),
        *("qwen3_omni_moe", "qwen3_omni_moe_thinker", "qwen3_omni_moe_audio_encoder"),
    )
    within = r"^(thinker\.)?(model\.)?audio_tower\."

    def __init__(self, config: EncoderConfig, hf_config: PreTrainedConfig) -> None:
        hf_config = getattr(hf_config, "thinker_config", hf_config)
        hf_config = getattr(hf_config, "audio_config", hf_config)
        super().__init__(config, hf_config)
        self.feature_size, self.output_size = hf_config.num_mel_bins, hf_config.output_dim
        self.third = hf_config.model_type == "qwen3_omni_moe_audio_encoder"
        self.window = 2 * hf_config.n_window
        self.leaks = self.third  # its convolutions see the padding of a clip's last window
        self.shortest = 400 if self.third else 480  # three features, of which two frames and then one
        frames = self.output_lengths(torch.tensor(self.window, device="cpu"))
        self.frame_rate = self.feature_rate * int(frames) / self.window

    def architecture(self) -> Any:
        from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder
        from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder

        return Qwen3OmniMoeAudioEncoder if self.third else Qwen2_5OmniAudioEncoder

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        if not self.third:
            return (lengths + 1) // 2 // 2
        rest, whole = lengths % self.window, torch.full_like(lengths, self.window)
        for _ in range(3):
            rest, whole = (rest + 1) // 2, (whole + 1) // 2
        return lengths // self.window * whole + rest

    def encode(self, model: Any, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = features[frame_mask(lengths, features.shape[1])].T  # [F, all features of all clips]
        frames = model(input_features=packed, feature_lens=lengths).last_hidden_state
        clips = frames.split(self.output_lengths(lengths).tolist())
        return nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
