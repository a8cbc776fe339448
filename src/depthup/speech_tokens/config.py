"""What a speech tokenizer is made of; all that models and plans must know of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Optional

import numpy as np
from transformers import AutoConfig, PreTrainedConfig


class SpeechTokenizerConfig(PreTrainedConfig):
    """The `config.json` of a directory that `depthup tokenizer` wrote; its centroids lie beside it."""

    model_type = "speech_tokenizer"

    encoder: Optional[str] = None
    """Hub id or directory of the audio encoder whose frames are clustered; None without a semantic stream."""
    encoder_hash: Optional[str] = None
    """Fingerprint of its weights."""
    layer: Optional[int] = None
    """Its transformer layer whose output is clustered, 1 for the lowest; None for what the whole encoder puts out."""
    num_clusters: int = 0
    codec: Optional[str] = None
    """Hub id or directory of the neural codec; None without acoustic streams."""
    codec_hash: Optional[str] = None
    codec_streams: int = 0
    """Codebooks of the codec that are used, from the first."""
    codebook_sizes: Optional[list[int]] = None
    """Ids in each stream [streams], the semantic one first."""
    frame_rate: float = 50.0
    """Frames, hence ids in each stream, per second."""
    longest: Optional[int] = None
    """Samples (16 kHz) of the longest clip that the audio encoder hears at once; None for any."""
    hash: str = ""
    """Fingerprint of all that decides which ids a clip gets: names and directories do not."""
    fit: Optional[dict[str, Any]] = None
    """What the clusters were fitted on, and how well they fit."""

    def fingerprint(self, centroids: Optional[np.ndarray]) -> str:
        """What `hash` must be, with centroids [clusters, size] in float32."""
        parts = [self.encoder_hash, self.layer, self.num_clusters, self.codec_hash, self.codec_streams]
        digest = hashlib.sha256(json.dumps(parts).encode())
        if centroids is not None:
            digest.update(np.ascontiguousarray(centroids, dtype="<f4").data)
        return digest.hexdigest()


AutoConfig.register("speech_tokenizer", SpeechTokenizerConfig)
