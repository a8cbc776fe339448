"""Discrete speech tokens: a speech tokenizer in the place of an encoder."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import torch

from depthup.config import EncoderConfig
from depthup.errors import UserError
from depthup.model.encoders.kind import EncoderKind, FeatureTransform, SpeechEncoder
from depthup.speech_tokens.config import SpeechTokenizerConfig


class Tokens(EncoderKind):
    """Ids of a speech tokenizer, which are features and frames alike: the processor makes them, or shards hold them.

    So a model that is trained on shards of tokens needs neither audio encoder nor codec, and none is in a checkpoint.
    """

    model_types = (SpeechTokenizerConfig.model_type,)
    has_mel = False

    def __init__(self, config: EncoderConfig, hf_config: SpeechTokenizerConfig) -> None:
        super().__init__(config, hf_config)
        if config.train:
            raise UserError(f"encoder.train: {config.name} gives tokens, through which nothing learns; leave it out")
        self.codebook_sizes = list(hf_config.codebook_sizes or [])
        self.feature_rate = self.frame_rate = hf_config.frame_rate
        self.feature_size = self.output_size = len(self.codebook_sizes)
        self.longest = hf_config.longest

    def features(
        self, extractor: Any, samples: np.ndarray, transform: Optional[FeatureTransform], device: str
    ) -> np.ndarray:
        """One clip [samples] -> ids [T, streams] int64."""
        return extractor(samples, device)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths

    def build(self, load_weights: bool) -> SpeechEncoder:
        return TokenSource(self)


class TokenSource(SpeechEncoder):
    """Has no weights: the ids that come in go out."""

    def forward(
        self, features: torch.Tensor, lengths: torch.Tensor, taught: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return features, lengths

    def fingerprint(self) -> Optional[str]:
        """The speech tokenizer's."""
        return self.kind.hf_config and self.kind.hf_config.hash
