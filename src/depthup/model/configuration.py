"""What a checkpoint's `config.json` says."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Optional, get_args

from transformers import AutoConfig, PreTrainedConfig

from depthup.config import (
    ConnectorConfig,
    EncoderConfig,
    Layer,
    LoraConfig,
    Method,
    Quantization,
    Recipe,
    Scope,
    UpscaleConfig,
)
from depthup.errors import UserError
from depthup.model.remote_code import AUTO_MAP, CodeFromPackage
from depthup.model.upscale import matched_rank, placement_indices
from depthup.registration import MODEL_TYPE

ANSWER_AT_LEAST = 16
"""Tokens of a transcript that the shortest recording may have."""


class SpeechLMConfig(CodeFromPackage, PreTrainedConfig):
    """The base model, how it was adapted, and the sizes of what was added."""

    model_type = MODEL_TYPE

    base: str = ""
    """Hub id or directory of the base model."""
    base_revision: Optional[str] = None
    base_hash: Optional[str] = None
    """Fingerprint of the base's weights."""
    base_config: Optional[dict[str, Any]] = None
    """The base's own configuration."""
    base_embedding_std: float = 0.02
    """Standard deviation of the base's token embeddings, the scale of projected speech."""
    method: Any = "depth_upscale"
    dtype_policy: str = "auto"
    base_quantization: Quantization = "none"
    seed: int = 0
    prompt: str = ""
    encoder: Optional[dict[str, Any]] = None
    encoder_config: Optional[dict[str, Any]] = None
    """Configuration of a Hugging Face speech encoder."""
    encoder_hash: Optional[str] = None
    """Fingerprint of a frozen Hugging Face encoder's weights."""
    connector: Optional[dict[str, Any]] = None
    transcripts: str = "as_is"
    """How transcripts are written, as `data.transcripts`."""
    tokens_per_second: float = 12.0
    """Most tokens that are answered to a second of speech, as the training set has taught (`depthup.data.pace`)."""
    written_per_second: float = 6.0
    """The same of what the encoder model's own decoder writes."""
    frame_stack: int = 1
    """Encoder frames per speech frame of the LLM."""
    upscale: Optional[dict[str, Any]] = None
    lora: Optional[dict[str, Any]] = None
    ctc_outputs: int = 0
    """CTC outputs per state that the head reads; 0 without a CTC head."""
    audio_token_id: int = 0
    """Placeholder of a speech frame: the first id after the base's vocabulary."""
    standalone: bool = False
    """Whether base and encoder are in the checkpoint, beside what was trained."""
    licences: Optional[dict[str, Optional[str]]] = None
    """Of the base and the encoder that are in it, where they are known."""
    trained_on: Optional[dict[str, Any]] = None
    """Names of the data, hours and steps, as `model.card.trained_on` gives them, of a checkpoint without its recipe."""

    @classmethod
    def from_recipe(cls, recipe: Recipe, base_config: PreTrainedConfig, **kwargs: Any) -> SpeechLMConfig:
        """What the recipe and the base's configuration decide; `kwargs` are further fields."""
        return cls(
            base=recipe.base,
            base_revision=recipe.base_revision,
            base_config=portable(base_config.to_dict()),
            method=recipe.method,
            dtype_policy=recipe.dtype,
            base_quantization=recipe.base_quantization,
            seed=recipe.seed,
            prompt=recipe.prompt,
            encoder=dataclasses.asdict(recipe.encoder),
            connector=dataclasses.asdict(recipe.connector),
            transcripts=recipe.data.transcripts,
            upscale=_resolved_upscale(recipe, base_config) if "depth_upscale" in recipe.method else None,
            lora=_resolved_lora(recipe, base_config) if "lora" in recipe.method else None,
            audio_token_id=base_config.vocab_size,
            **kwargs,
        )

    def answer_tokens(self, seconds: float) -> int:
        """Most tokens of the transcript of a recording that lasts so long."""
        return ANSWER_AT_LEAST + math.ceil(self.tokens_per_second * seconds)

    @classmethod
    def kept_in(cls, directory: Path) -> SpeechLMConfig:
        """A checkpoint's. Raises UserError where it is damaged, or of a version that is not read here."""
        try:
            config = cls.from_pretrained(directory)
            config.make_base_config()
            config.check()
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise UserError(
                f"{directory}: config.json is damaged, or of another version of depthup ({reason})"
            ) from error
        return config

    def check(self) -> None:
        """Raises ValueError or TypeError where a setting is none that a recipe could have."""
        encoder, upscale = EncoderConfig(**(self.encoder or {})), UpscaleConfig(**(self.upscale or {}))
        ConnectorConfig(**(self.connector or {}))
        LoraConfig(**(self.lora or {}))
        words = {"base": self.base, "prompt": self.prompt, "encoder.name": self.encoder and encoder.name}
        chosen = {
            "method": (self.method, Method),
            "base_quantization": (self.base_quantization, Quantization),
            "upscale.layer": (upscale.layer, Layer),
            "upscale.scope": (upscale.scope, Scope),
        }
        odd = {name: word for name, word in words.items() if not isinstance(word, str) or not word}
        odd |= {name: value for name, (value, kind) in chosen.items() if value not in get_args(kind)}
        if odd or ("depth_upscale" in self.method) != bool(self.upscale):
            raise ValueError(", ".join(f"{name} is {value!r}" for name, value in odd.items()) or "upscale is missing")

    def to_dict(self) -> dict[str, Any]:
        """As any configuration's, with the classes that transformers finds by `trust_remote_code`."""
        told = super().to_dict() | {"auto_map": AUTO_MAP, "architectures": ["SpeechLM"]}
        told.pop("_found_at", None)
        for name in ("base_config", "encoder_config"):
            told[name] = told[name] and portable(told[name])
        return told

    def found_at(self, base: Optional[str] = None, encoder: Optional[str] = None) -> None:
        """Say where base and encoder stand now; what is saved keeps the names they had in training."""
        self._found_at = {"base": base, "encoder": encoder}

    @property
    def vocab_size(self) -> int:
        """The base's; the placeholder of speech lies behind it."""
        return self.get_text_config().vocab_size if self.base_config else 0

    @property
    def hidden_size(self) -> int:
        """The base's."""
        return self.get_text_config().hidden_size if self.base_config else 0

    @property
    def base_source(self) -> tuple[str, Optional[str]]:
        """Where the base is to be found, and its revision on the hub."""
        found = getattr(self, "_found_at", {}).get("base")
        return (str(found), None) if found else (self.base, self.base_revision)

    @property
    def encoder_source(self) -> str:
        """Where the speech encoder is to be found."""
        return str(getattr(self, "_found_at", {}).get("encoder") or (self.encoder or {}).get("name", ""))

    @property
    def upscale_config(self) -> Optional[UpscaleConfig]:
        try:
            return UpscaleConfig(**self.upscale) if self.upscale else None
        except (TypeError, ValueError) as error:
            raise UserError(
                f"checkpoint: made by another version of depthup, its layers are not known here ({error})"
            ) from error

    def make_base_config(self) -> PreTrainedConfig:
        """The base's configuration as its own class."""
        fields = dict(self.base_config or {})
        return AutoConfig.for_model(fields.pop("model_type"), **fields)

    def get_text_config(self, decoder: Optional[bool] = None, encoder: Optional[bool] = None) -> PreTrainedConfig:
        """The base's configuration, which is what caches are made for; inserted layers add their own entries."""
        return self if self.base_config is None else self.make_base_config()


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """Without the place on this machine that it was read from."""
    return {name: value for name, value in config.items() if name != "_name_or_path"}


def _resolved_upscale(recipe: Recipe, base: PreTrainedConfig) -> dict[str, Any]:
    """The recipe's section with the number of layers that it comes to."""
    number = len(placement_indices(recipe.upscale, base.num_hidden_layers))
    return {**dataclasses.asdict(recipe.upscale), "num_layers": number}


def _resolved_lora(recipe: Recipe, base: PreTrainedConfig) -> dict[str, Any]:
    """The recipe's section with rank and scale in numbers."""
    lora = recipe.lora
    rank = matched_rank(base, recipe.upscale) if lora.rank == "matched" else lora.rank
    return {**dataclasses.asdict(lora), "rank": rank, "alpha": 2.0 * rank if lora.alpha is None else lora.alpha}


def frame_stack(encoder_rate: float, wanted_rate: float) -> int:
    """Encoder frames in a speech frame of the LLM, both in frames a second. Raises UserError."""
    stack = max(1, round(encoder_rate / wanted_rate))
    if abs(encoder_rate / stack - wanted_rate) > 0.1:
        raise UserError(
            f"encoder.frame_rate {wanted_rate:g}: the encoder gives {encoder_rate:g} frames a second to stack; "
            f"choose {encoder_rate:g} divided by a whole number, such as {encoder_rate / stack:.4g}"
        )
    return stack


def ctc_outputs(recipe: Recipe, frame_rate: float) -> int:
    """CTC outputs per state that the head reads, of so many states a second; 0 without a CTC head.

    Raises UserError where there must be one.
    """
    rate, weight = recipe.train.ctc_rate, recipe.train.ctc_weight
    if not (weight > 0 or recipe.train.front_end_steps > 0 or recipe.init_part == "front_end"):
        return 0
    if rate == 0 and (weight > 0 or not recipe.encoder.decoder or recipe.connector.name != "draft"):
        raise UserError(
            "train.ctc_rate 0: only a front end whose decoder writes the draft (encoder.decoder, connector.name draft) "
            "learns without a CTC head, and train.ctc_weight is that head's"
        )
    return max(1, round(rate / frame_rate)) if rate else 0
