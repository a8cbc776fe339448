"""Speech encoders: features in, frames out. A new kind is one file here and one line in `KINDS`."""

from __future__ import annotations

from typing import Any, Optional

from transformers import AutoConfig, PreTrainedConfig

from depthup.config import EncoderConfig
from depthup.errors import UserError
from depthup.model.encoders.audio_llms import AudioLLM
from depthup.model.encoders.fbank import Fbank
from depthup.model.encoders.kind import EncoderKind as EncoderKind
from depthup.model.encoders.kind import SpeechEncoder as SpeechEncoder
from depthup.model.encoders.kind import load_encoder_config as load_encoder_config
from depthup.model.encoders.moonshine import Moonshine
from depthup.model.encoders.parakeet import Parakeet
from depthup.model.encoders.qwen_omni import QwenOmni
from depthup.model.encoders.seamless import Seamless
from depthup.model.encoders.speech_to_text import SpeechToText
from depthup.model.encoders.tokens import Tokens
from depthup.model.encoders.waveform import Waveform
from depthup.model.encoders.whisper import Whisper

KINDS: tuple[type[EncoderKind], ...] = (
    Fbank,
    Whisper,
    Waveform,
    Seamless,
    Moonshine,
    Parakeet,
    SpeechToText,
    AudioLLM,
    QwenOmni,
    Tokens,
)
BY_NAME = {name: kind for kind in KINDS for name in kind.names}
BY_TYPE = {name: kind for kind in KINDS for name in kind.model_types}


def encoder_kind(config: EncoderConfig, hf_config: Optional[PreTrainedConfig] = None) -> EncoderKind:
    """The kind of encoder that a recipe names; `hf_config` where its Hugging Face configuration is known already.

    Raises UserError for a model that is no speech encoder, or none that is known here.
    """
    if config.name in BY_NAME:
        return _refuse_idle(BY_NAME[config.name](config))
    hf_config = hf_config or load_encoder_config(config.name)
    if hf_config.model_type not in BY_TYPE:
        known = ", ".join(BY_TYPE)
        raise UserError(
            f"encoder {config.name}: {hf_config.model_type} models are no speech encoders here; {known} are"
        )
    return _refuse_idle(BY_TYPE[hf_config.model_type](config, hf_config))


def kept_kind(encoder: Optional[dict[str, Any]], encoder_config: Optional[dict[str, Any]]) -> EncoderKind:
    """The same from what a checkpoint keeps: fields of `EncoderConfig`, and a Hugging Face model's configuration."""
    hf_config = encoder_config and AutoConfig.for_model(**encoder_config)
    return encoder_kind(EncoderConfig(**(encoder or {})), hf_config or None)


def _refuse_idle(kind: EncoderKind) -> EncoderKind:
    if kind.config.pad_to_30s and kind.padded_length is None:
        raise UserError(f"encoder.pad_to_30s: {kind.config.name} was not trained on clips of 30 s; leave it out")
    if kind.config.decoder and kind.writer is None:
        raise UserError(f"encoder.decoder: {kind.config.name} has no decoder that writes here; leave it out")
    return kind
