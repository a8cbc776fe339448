"""w2v-BERT 2.0 and SeamlessM4T's speech encoder: conformers over pairs of log-mel frames."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import torch
from transformers import PreTrainedConfig

from depthup.config import EncoderConfig
from depthup.model.encoders.kind import EncoderKind, FeatureTransform


class Seamless(EncoderKind):
    """80 mel bins of two frames at once, 50 frames a second, fewer with an adapter."""

    model_types = ("wav2vec2-bert", "seamless_m4t", "seamless_m4t_v2")
    feature_rate = 50.0
    shortest = 560  # a frame of 400 samples, and its neighbour 160 later
    leaks = True  # depthwise convolutions, positions and adapters see padding

    def __init__(self, config: EncoderConfig, hf_config: PreTrainedConfig) -> None:
        super().__init__(config, hf_config)
        self.feature_size = hf_config.feature_projection_input_dim
        self.output_size = hf_config.hidden_size
        self.frame_rate = self.feature_rate
        self.adapters: list[tuple[int, int]] = []  # kernel and stride of each
        if hf_config.add_adapter:
            spelled = "adapter" if hf_config.model_type == "wav2vec2-bert" else "adaptor"
            adapter = getattr(hf_config, f"{spelled}_kernel_size"), getattr(hf_config, f"{spelled}_stride")
            self.adapters = [adapter] * hf_config.num_adapter_layers
            self.frame_rate /= adapter[1] ** hf_config.num_adapter_layers
            self.output_size = getattr(hf_config, "output_hidden_size", hf_config.hidden_size)

    def features(
        self, extractor: Any, samples: np.ndarray, transform: Optional[FeatureTransform], device: str
    ) -> np.ndarray:
        found = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")
        pairs = found["input_features"][0][: int(found["attention_mask"][0].sum())]
        if transform:
            pairs = transform(pairs.reshape(2 * len(pairs), -1)).reshape(pairs.shape)
        return np.asarray(pairs, dtype=np.float32)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        for kernel, stride in self.adapters:
            lengths = (lengths + stride // 2 * 2 - kernel) // stride + 1
        return lengths

    def model(self, load_weights: bool) -> Any:
        model = super().model(load_weights)
        return getattr(model, "speech_encoder", model)

    def encode(self, model: Any, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return model(features).last_hidden_state
