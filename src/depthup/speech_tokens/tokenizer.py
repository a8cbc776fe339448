"""The speech tokenizer: audio in, one id per frame and stream out."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import AutoFeatureExtractor, FeatureExtractionMixin
from transformers.utils import cached_file

from depthup.errors import UserError
from depthup.model.encoders.kind import SAMPLING_RATE
from depthup.speech_tokens.codec import Codec
from depthup.speech_tokens.config import SpeechTokenizerConfig
from depthup.speech_tokens.semantic import LayerFrames, nearest

NO_ID = -1
"""Stands in a stream that ends a frame before the longest one."""
CENTROIDS = "centroids.safetensors"


class SpeechTokenizer(FeatureExtractionMixin):
    """Turns a clip into ids, as a text tokenizer does with text; to transformers it is a feature extractor.

    Audio encoder and codec are loaded when a clip is tokenized for the first time, so that a model which is trained on
    tokens needs neither.
    """

    def __init__(
        self, config: SpeechTokenizerConfig, centroids: Optional[np.ndarray] = None, where: str = "", **kwargs: Any
    ) -> None:
        """
        Args:
            centroids: [clusters, size] float32, where there is a semantic stream.
            where: the name by which messages call it.

        Raises UserError where this is not what `config` was written with.
        """
        super().__init__(**kwargs)
        self.config, self.centroids, self.where = config, centroids, where
        self.sampling_rate = SAMPLING_RATE
        if (centroids is None) != (config.encoder is None) or config.fingerprint(centroids) != config.hash:
            raise UserError(f"speech tokenizer {where}: it is not what its config.json was written with; make it again")

    @property
    def hash(self) -> str:
        return self.config.hash

    @cached_property
    def semantic(self) -> Optional[LayerFrames]:
        """The audio encoder. Raises UserError where its weights are not those that the clusters were fitted on."""
        config = self.config
        if config.encoder is None:
            return None
        with torch.random.fork_rng(devices=[]):  # loading draws numbers, and training must not notice when
            found = LayerFrames(config.encoder, config.layer)
        if found.hash != config.encoder_hash:
            raise UserError(
                f"speech tokenizer {self.where}: its clusters were fitted on an audio encoder with other weights than "
                f"{config.encoder}'s; give the right one with encoder=..."
            )
        return found

    @cached_property
    def codec(self) -> Optional[Codec]:
        """The neural codec. Raises UserError where its weights are others."""
        config = self.config
        if config.codec is None:
            return None
        with torch.random.fork_rng(devices=[]):
            found = Codec(config.codec, config.codec_streams)
        if found.hash != config.codec_hash:
            raise UserError(
                f"speech tokenizer {self.where}: it was made with a codec of other weights than {config.codec}'s; "
                "give the right one with codec=..."
            )
        return found

    def check(self) -> None:
        """Find audio encoder and codec now. Raises UserError."""
        assert (self.semantic, self.codec) != (None, None)

    def __call__(self, samples: np.ndarray, device: str = "cpu") -> np.ndarray:
        """One clip [samples] at 16 kHz -> ids [T, streams] int64, the semantic stream first.

        Clips go through one at a time, so that a clip's ids do not depend on its neighbours. Raises UserError for a
        clip longer than the audio encoder hears.
        """
        if self.config.longest and len(samples) > self.config.longest:
            raise UserError(
                f"clip of {len(samples) / SAMPLING_RATE:.1f} s: {self.config.encoder} hears "
                f"{self.config.longest / SAMPLING_RATE:g} s at most; cut it"
            )
        streams = []
        if self.semantic is not None:
            frames = self.semantic.to(device)(samples)
            streams.append(nearest(frames, torch.from_numpy(self.centroids).to(frames.device))[:, None])
        if self.codec is not None:
            streams.append(self.codec.to(device)(samples))
        longest = max(len(ids) for ids in streams)
        padded = [torch.nn.functional.pad(ids, (0, 0, 0, longest - len(ids)), value=NO_ID) for ids in streams]
        return torch.cat(padded, 1).cpu().numpy()

    def to_dict(self) -> dict[str, Any]:
        """What a processor's configuration says of it."""
        return {"feature_extractor_type": type(self).__name__, "sampling_rate": self.sampling_rate, "hash": self.hash}

    def save_pretrained(self, save_directory: Union[str, Path], *args: Any, **kwargs: Any) -> None:
        """Write `config.json`, the centroids, and what tells `AutoFeatureExtractor` what this is."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(directory)
        self.to_json_file(directory / "preprocessor_config.json")
        self.save_centroids(directory)

    def save_centroids(self, directory: Path) -> None:
        """Write the centroids, where there are any, into a checkpoint, whose configuration tells the rest."""
        if self.centroids is not None:
            save_file({"centroids": self.centroids}, directory / CENTROIDS, {"format": "pt"})

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: Union[str, Path],
        encoder: Optional[str] = None,
        codec: Optional[str] = None,
        **kwargs: Any,
    ) -> SpeechTokenizer:
        """The tokenizer in a directory, a checkpoint or a repository on the hub.

        `encoder` and `codec` say where these stand now, if they have moved. Raises UserError.
        """
        place = str(pretrained_model_name_or_path)
        try:
            told = json.loads(Path(str(cached_file(place, "config.json"))).read_text(encoding="utf-8"))
            config = SpeechTokenizerConfig(
                **(told.get("encoder_config") or told)
            )  # a checkpoint keeps it inside its own
            centroids = load_file(str(cached_file(place, CENTROIDS)))["centroids"] if config.num_clusters else None
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"speech tokenizer {place}: cannot be read ({reason}); make it again") from error
        tokenizer = cls(config, centroids, where=place)
        tokenizer.move(encoder, codec)
        return tokenizer

    def move(self, encoder: Optional[str], codec: Optional[str]) -> None:
        """Say where audio encoder and codec stand now, if they have moved, before either is needed."""
        self.config.encoder, self.config.codec = encoder or self.config.encoder, codec or self.config.codec


AutoFeatureExtractor.register(SpeechTokenizerConfig, SpeechTokenizer)
