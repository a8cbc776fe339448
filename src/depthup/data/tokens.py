"""Clips as speech tokens: made for shards, and read from them."""

from __future__ import annotations

import multiprocessing
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lhotse.array import Array, TemporalArray
from lhotse.cut import Cut

from depthup.config import Recipe
from depthup.data.audio import read_audio
from depthup.data.shar import TOKENIZER, TOKENS, tokenizer_of
from depthup.errors import UserError
from depthup.model.encoders import EncoderKind
from depthup.speech_tokens.tokenizer import NO_ID, SpeechTokenizer

if TYPE_CHECKING:
    from depthup.model.processor import SpeechProcessor

NONE = np.iinfo(np.uint16).max
"""Stands for no id; ids are kept in 16 bits."""


def describe(directory: str) -> dict[str, Any]:
    """What a manifest says of a speech tokenizer, whose models are found and checked. Raises UserError."""
    tokenizer = _tokenizer(directory)
    tokenizer.check()
    return tokenizer.config.to_diff_dict()


def tokenize(directory: str, samples: np.ndarray) -> tuple[np.ndarray, TemporalArray]:
    """One clip [samples] at 16 kHz -> ids [T, streams] as uint16, and Lhotse's manifest of them. Raises UserError."""
    tokenizer = _tokenizer(directory)
    ids = tokenizer(samples, "cuda" if torch.cuda.is_available() else "cpu").astype(np.uint16)  # no id becomes `NONE`
    array = Array(storage_type="shar", storage_path="", storage_key="", shape=list(ids.shape))
    return ids, TemporalArray(array, temporal_dim=0, frame_shift=1 / tokenizer.config.frame_rate, start=0.0)


@lru_cache(maxsize=1)
def _tokenizer(directory: str) -> SpeechTokenizer:
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # there are as many processes as cores
    return SpeechTokenizer.from_pretrained(directory)


def read_speech(cut: Cut, processor: SpeechProcessor) -> np.ndarray:
    """A clip's samples [samples] at the processor's rate, or its ids [T, streams] int64 where it comes as tokens.

    Raises `BadAudio` for a clip that cannot be used, and UserError where its tokens are of another speech tokenizer.
    """
    custom = getattr(cut, "custom", None) or {}
    if TOKENS not in custom:
        return read_audio(cut, processor.sampling_rate)
    if custom[TOKENIZER] != getattr(processor.feature_extractor, "hash", None):
        raise UserError(f"{cut.id}: its tokens are of another speech tokenizer than the model's; write them again")
    ids = custom[TOKENS].load().astype(np.int64)
    return np.where(ids == NONE, NO_ID, ids)


def is_tokens(speech: np.ndarray) -> bool:
    """Whether a clip is ids [T, streams] rather than samples [samples]."""
    return speech.ndim == 2


def check_tokens(recipe: Recipe, kind: EncoderKind) -> None:
    """Raises UserError where training would change tokens, or read others than its own."""
    augment, data = recipe.augment, recipe.data
    train = [data.train] if isinstance(data.train, str) else data.train
    for source in [*train, *([data.validation] if data.validation else [])]:
        if (held := tokenizer_of(source)) is None:
            continue
        if not kind.codebook_sizes:
            raise UserError(f"{source}: holds speech tokens; set encoder.name to the speech tokenizer that made them")
        if kind.hf_config is None or held["hash"] != kind.hf_config.hash:
            raise UserError(
                f"{source}: holds tokens of another speech tokenizer than {kind.config.name}; write them again with "
                f"`depthup data --tokenizer {kind.config.name}`"
            )
        if source in train and (augment.speed or augment.gain_db or augment.tilt_db or augment.noise):
            raise UserError(f"augment: {source} holds tokens, which cannot be changed; turn it off, or train on audio")
