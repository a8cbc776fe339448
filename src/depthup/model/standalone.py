"""A checkpoint that holds its base and its speech encoder too, beside what was trained: nothing else is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Union

import torch
import transformers
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from depthup.errors import UserError
from depthup.model.configuration import SpeechLMConfig
from depthup.model.encoders import SpeechEncoder, kept_kind
from depthup.model.stored import read, stored

BASE, ENCODER = "base.", "encoder."
"""Begin the names of the base's tensors, and of those of the encoder that did not train."""


def is_standalone(name: Union[str, Path]) -> bool:
    """Whether a base's name is the directory of such a checkpoint."""
    file = Path(name) / "config.json"
    return file.is_file() and bool(json.loads(file.read_text(encoding="utf-8")).get("standalone"))


def is_inside(name: str) -> bool:
    """Whether a tensor of this name comes with the base or the encoder."""
    return name.startswith((BASE, ENCODER))


def read_base(directory: Union[str, Path], dtype: Any, **options: Any) -> PreTrainedModel:
    """The base as it was before training. Raises UserError where all of it was trained."""
    directory = Path(directory)
    config = SpeechLMConfig.kept_in(directory)
    names = [name for name in stored(directory) if name.startswith(BASE)]
    if not names:
        raise UserError(f"{directory}: method full trained the base's own weights, so the base is not in it")
    tensors = {name.removeprefix(BASE): tensor for name, tensor in read(directory, names)}
    if dtype == "auto":
        dtype = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    llm = _class(config).from_pretrained(
        None, config=config.make_base_config(), state_dict=tensors, dtype=dtype, **options
    )
    llm.generation_config = GenerationConfig.from_pretrained(directory)
    return llm


def empty_base(config: SpeechLMConfig, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """A base whose weights are all filled in later."""
    llm = _class(config)._from_config(config.make_base_config(), dtype=dtype, **options)
    llm.generation_config = GenerationConfig.from_pretrained(config.base_source[0])
    return llm


def read_encoder(directory: Path, config: SpeechLMConfig) -> SpeechEncoder:
    """The speech encoder, but for what of it was trained."""
    kind = kept_kind(config.encoder, config.encoder_config)
    if kind.writer is not None:
        kind.writer.kept = directory
    encoder = kind.build(load_weights=False)
    names = [name for name in stored(directory) if name.startswith(ENCODER)]
    encoder.load_state_dict({n.removeprefix(ENCODER): tensor for n, tensor in read(directory, names)}, strict=False)
    return encoder


def tensors_of(module: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """All that a module's state is made of, each tensor once, on the CPU."""
    seen: set[int] = set()
    found = {}
    for name, tensor in module.state_dict().items():
        if tensor.data_ptr() not in seen:  # tied weights
            seen.add(tensor.data_ptr())
            found[prefix + name] = tensor.detach().cpu().contiguous()
    return found


def _class(config: SpeechLMConfig) -> Any:
    (name,) = (config.base_config or {})["architectures"]
    return getattr(transformers, name)
