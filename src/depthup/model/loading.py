"""From a checkpoint to a model: base and encoder are found and known again, and what was trained is filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Optional, Union

import torch
from transformers import PreTrainedModel

from depthup.errors import UserError
from depthup.model import checkpoint, standalone
from depthup.model.attention_kernels import kernel_options
from depthup.model.base import llm_class, load_base, resolve_dtype
from depthup.model.configuration import SpeechLMConfig
from depthup.model.encoders import SpeechEncoder, kept_kind
from depthup.model.fingerprint import fingerprint

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FROM_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token")
"""Arguments about a checkpoint on the hub, as everywhere in transformers."""
FROM_CALLERS = ("_commit_hash", "_from_auto", "_from_pipeline", "adapter_kwargs", "code_revision", "trust_remote_code")
"""What auto classes and pipelines pass to every model, which means nothing here."""


def arguments_for_hub(arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of `from_pretrained` that are about the hub. Raises TypeError for unknown ones."""
    unknown = arguments.keys() - {*FROM_HUB, *FROM_CALLERS}
    if unknown:
        raise TypeError(f"SpeechLM.from_pretrained: unknown arguments {', '.join(sorted(unknown))}")
    return {name: arguments[name] for name in FROM_HUB if arguments.get(name) is not None}


def chosen_dtype(dtype: Union[str, torch.dtype, None], config: SpeechLMConfig) -> torch.dtype:
    """The LLM's number format: what is asked for, else as in training, on CPUs float32. Raises UserError."""
    if dtype in (None, "auto"):
        return resolve_dtype("float32" if config.dtype_policy == "float32" else "auto")
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES:
        raise UserError(f"dtype {dtype}: choose float32, bfloat16 or float16")
    return chosen


def one_device(device_map: Any) -> torch.device:
    """The device that a `device_map` stands for; `auto` is the first GPU where there is one. Raises UserError."""
    first = "cuda:0" if torch.cuda.is_available() else "cpu"
    named = device_map.values() if isinstance(device_map, dict) else ["cpu" if device_map is None else device_map]
    try:
        (device,) = {torch.device(first if one == "auto" else one) for one in named}
    except (RuntimeError, ValueError):
        raise UserError(
            f"device_map {device_map!r}: the whole model goes to one device; give 'auto', 'cpu' or such as 'cuda:0'"
        ) from None
    return device


def known_base(
    directory: Path, config: SpeechLMConfig, dtype: Union[torch.dtype, Literal["auto"]], **options: Any
) -> PreTrainedModel:
    """The base of a checkpoint, with its weights, in a format. Raises UserError where it is not the one of training."""
    if config.standalone and config.method == "full":  # all of the LLM was trained
        return standalone.empty_base(config, resolve_dtype("float32") if dtype == "auto" else dtype, **options)
    # Weights that were rounded to float16 are not known again, so they are rounded afterwards.
    llm = load_base(*config.base_source, "auto" if dtype == torch.float16 else dtype, **options)
    if fingerprint(llm) != config.base_hash:
        raise UserError(
            f"{directory}: its base {config.base_source[0]} has other weights than the ones it was trained on; "
            "give the right one with base=..."
        )
    if dtype == torch.float16:
        for parameter in llm.parameters():  # and no buffers: the base keeps its rotary frequencies in float32
            parameter.data = parameter.data.half()
    return llm


def known_encoder(directory: Path, config: SpeechLMConfig) -> SpeechEncoder:
    """The speech encoder of a checkpoint, with its weights where they do not come with those that were trained.

    Raises UserError where it is not the one of training.
    """
    if config.standalone:
        return standalone.read_encoder(directory, config)
    fields = {**(config.encoder or {}), "name": config.encoder_source}
    encoder = kept_kind(fields, config.encoder_config).build(load_weights=True)
    if config.encoder_hash and encoder.fingerprint() != config.encoder_hash:
        raise UserError(
            f"{directory}: its speech encoder {config.encoder_source} has other weights than the ones it was trained "
            "with; give the right one with encoder=..."
        )
    return encoder


def load_model(
    cls: Any,
    name: Union[str, Path],
    config: Optional[SpeechLMConfig],
    base: Optional[str],
    encoder: Optional[str],
    dtype: Union[str, torch.dtype, None],
    device_map: Any,
    **kwargs: Any,
) -> Any:
    """What `SpeechLM.from_pretrained` does."""
    dtype = kwargs.pop("torch_dtype", None) if dtype is None else dtype  # its name until transformers 5
    kernel = kwargs.pop("attn_implementation", None) or "auto"
    device = one_device(device_map)
    directory = checkpoint.find(name, **arguments_for_hub(kwargs))
    config = config or SpeechLMConfig.kept_in(directory)
    inside = str(directory) if config.standalone else None
    config.found_at(base or inside, encoder)
    number = chosen_dtype(dtype, config)
    options = kernel_options(kernel, llm_class(config.make_base_config()), number)
    model = cls(config, known_base(directory, config, number, **options), known_encoder(directory, config))
    checkpoint.load_trained(model, directory)
    for parameter in model.llm.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(number)
    return model.to(device).eval()
