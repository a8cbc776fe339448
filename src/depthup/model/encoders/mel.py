"""Encoders of Whisper's log-mel features."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from depthup.model.encoders.kind import EncoderKind, FeatureTransform


class LogMel(EncoderKind):
    """Encoders that hear `WhisperFeatureExtractor`'s log-mel features, of the clip alone rather than of 30 s."""

    feature_rate = 100.0
    shortest = 400  # the extractor's window, by whose half it reflects the clip at its ends

    def features(
        self, extractor: Any, samples: np.ndarray, transform: Optional[FeatureTransform], device: str
    ) -> np.ndarray:
        mel = extractor(
            samples,
            sampling_rate=extractor.sampling_rate,
            padding=False,
            truncation=False,
            return_tensors="np",
            device=device,
        )["input_features"][0].T
        return np.asarray(transform(mel) if transform else mel, dtype=np.float32)
