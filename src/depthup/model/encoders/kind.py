"""What a kind of speech encoder is, with its weights and without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Optional

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedConfig

from depthup.config import EncoderConfig
from depthup.errors import UserError, not_loaded
from depthup.model.encoders.writer import Writer, Written
from depthup.model.fingerprint import fingerprint

SAMPLING_RATE = 16000
UNUSED = ("masked_spec_embed",)
"""Weights for training that a published encoder may lack."""
FeatureTransform = Callable[[np.ndarray], np.ndarray]


class EncoderKind:
    """One kind of speech encoder: all that depends on the kind, and no weights.

    The processor, the model and the planner ask it, so that features and frames are counted in one place.
    """

    names: ClassVar[tuple[str, ...]] = ()
    """Values of `encoder.name` that mean this kind and no Hugging Face model."""
    model_types: ClassVar[tuple[str, ...]] = ()
    """`model_type` of the Hugging Face configurations that are of this kind."""
    never_train: ClassVar[tuple[str, ...]] = ()
    """Parts of names of weights that stay as they are, even where the encoder trains."""
    within: ClassVar[str] = ""
    """What stands before the names of the encoder's weights in those of a larger model, as a regular expression."""
    feature_rate: float
    """Features in a second of audio."""
    feature_size: int
    """Numbers in a feature."""
    has_mel: bool = True
    """Features are of log-mel frames, which augmentation may mask."""
    frame_rate: float
    """Frames in a second of audio."""
    output_size: int
    """Numbers in a frame."""
    codebook_sizes: Sequence[int] = ()
    """Of a kind that gives ids instead of frames, how many there are in each stream [streams]."""
    shortest: int = 1
    """Samples that give one frame; shorter clips are padded with silence."""
    longest: Optional[int] = None
    """Samples of the longest clip, where there is a limit."""
    padded_length: Optional[int] = None
    """Features that every clip is padded to; else to the longest of its batch."""
    thins: bool = False
    """Behind the clip's own frames come a few that stand for silence."""
    leaks: bool = False
    """Padding reaches real frames, so clips go through one at a time."""
    trains: bool
    """Whether its weights train."""
    writer: Optional[Writer] = None
    """Runs the decoder of a model that has one, where the recipe keeps it."""

    def __init__(self, config: EncoderConfig, hf_config: Optional[PreTrainedConfig] = None) -> None:
        self.config, self.hf_config, self.trains = config, hf_config, config.train

    @property
    def pads_to_30s(self) -> Optional[bool]:
        """What `encoder.pad_to_30s` comes to: false for kinds that take clips as they are, whatever it says."""
        return None if self.thins else self.padded_length is not None

    def language(self, name: str) -> int:
        """The number of a language in a batch, by code or English name. Raises UserError where none can be told."""
        if self.writer is None:
            told = "the checkpoint hears what it was trained on; only a multilingual Whisper's decoder can be told one"
            raise UserError(f"language {name}: {told} (encoder.decoder in the recipe); leave it out")
        try:
            return self.writer.language(name)
        except UserError as error:
            raise UserError(f"language {name}: {error}") from error

    def feature_extractor(self) -> Any:
        """The Hugging Face feature extractor that goes with it, whose settings a checkpoint keeps. Raises UserError."""
        extractor = from_hub(AutoFeatureExtractor, self.config.name)
        if extractor.sampling_rate != SAMPLING_RATE:
            raise UserError(f"encoder {self.config.name}: hears {extractor.sampling_rate} Hz, not {SAMPLING_RATE}")
        return extractor

    def features(
        self, extractor: Any, samples: np.ndarray, transform: Optional[FeatureTransform], device: str
    ) -> np.ndarray:
        """One clip [samples], neither too short nor too long -> features [L, feature size], float32.

        `transform` masks log-mel features in training; `device` is where they are computed.
        """
        raise NotImplementedError

    def pad(self, clips: Sequence[np.ndarray]) -> torch.Tensor:
        """Features of N clips, each [L, F] -> [N, longest L, F]."""
        return nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frames of clips with so many features, [N] -> [N]."""
        raise NotImplementedError

    def build(self, load_weights: bool) -> SpeechEncoder:
        """The encoder itself, with random weights where none are loaded. Raises UserError."""
        return SpeechEncoder(self, self.model(load_weights))

    def model(self, load_weights: bool) -> Any:
        """The Hugging Face model that `encode` runs."""
        architecture = self.architecture()
        if not load_weights:
            make = AutoModel.from_config if architecture is AutoModel else architecture
            return make(self.hf_config).float()  # whatever format its own weights were published in
        alone = {"config": self.hf_config, "key_mapping": {self.within: ""}} if self.within else {}
        model, found = from_hub(architecture, self.config.name, dtype=torch.float32, output_loading_info=True, **alone)
        if missing := [name for name in found["missing_keys"] if name not in UNUSED]:
            raise UserError(
                f"encoder {self.config.name}: has no weights for {len(missing)} tensors, such as {missing[0]}"
            )
        if hasattr(model.config, "apply_spec_augment"):
            model.config.apply_spec_augment = False  # masking belongs to the recipe's augmentation
        return model

    def architecture(self) -> Any:
        """The class of `model` in transformers."""
        return AutoModel

    def encode(self, model: nn.Module, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """features [N, L, F], lengths [N] -> frames [N, T, output size], of which `output_lengths` are real.

        Behind those of the longest clip may come silence, which is for the writer alone.
        A kind that `leaks` gets one clip without padding.
        """
        raise NotImplementedError


class SpeechEncoder(nn.Module):
    """A speech encoder of any kind, with its weights."""

    def __init__(self, kind: EncoderKind, model: Optional[nn.Module] = None) -> None:
        super().__init__()
        self.kind = kind
        if model is not None:
            self.model = model

    def forward(
        self, features: torch.Tensor, lengths: torch.Tensor, taught: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """features [N, L, F], lengths [N] -> frames [N, T, output size] in float32 (or ids), lengths [N].

        Silence behind the clips is among the frames where there is a writer, which hears it too.
        Without gradients when it is frozen, or nothing in this pass is `taught` to it.
        """
        if not self.kind.trains:
            self.eval()
        with nullcontext() if self.kind.trains and taught else torch.no_grad():
            out_lengths = self.kind.output_lengths(lengths)
            if self.kind.leaks:
                rows = zip(features.split(1), lengths.split(1), lengths.tolist(), strict=True)
                clips = [self.frames(row[:, :n], length)[0] for row, length, n in rows]
                return nn.utils.rnn.pad_sequence(clips, batch_first=True).float(), out_lengths
            frames = self.frames(features, lengths).float()
            return frames if self.kind.writer else frames[:, : int(out_lengths.max())], out_lengths

    def fingerprint(self) -> Optional[str]:
        """A hash of frozen weights; None where they train."""
        return None if self.kind.trains else fingerprint(self.model)

    def write(
        self,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        per_second: float,
        temperature: float = 0.0,
        languages: Optional[torch.Tensor] = None,
        guess: str = "",
    ) -> Optional[list[Written]]:
        """What the model's own decoder writes of frames [N, T, output size], as `Writer.write`; None without one."""
        writer = self.kind.writer
        if writer is None:
            return None
        return writer.write(self.model, frames, lengths, per_second, temperature, languages, guess)

    def freeze(self) -> None:
        """Let train what the kind says trains."""
        for name, parameter in self.named_parameters():
            stays = any(part in name for part in self.kind.never_train)
            parameter.requires_grad_(self.kind.trains and not stays)

    def frames(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """As `EncoderKind.encode`."""
        return self.kind.encode(self.model, features, lengths)


def halved(lengths: torch.Tensor) -> torch.Tensor:
    """Frames left of a convolution with kernel 3, stride 2, padding 1."""
    return (lengths + 1) // 2


def from_hub(auto_class: Any, name: str, **kwargs: Any) -> Any:
    """What a Hugging Face class loads for an encoder's name. Raises UserError."""
    try:
        return auto_class.from_pretrained(name, **kwargs)
    except (OSError, ValueError, ImportError) as error:
        raise not_loaded("encoder", name, "audio encoder", error) from error


def load_encoder_config(name: str) -> PreTrainedConfig:
    """The configuration of a Hugging Face encoder, from the hub, a directory or a `config.json`. Raises UserError."""
    return from_hub(AutoConfig, name)
