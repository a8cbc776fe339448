"""A checkpoint directory: what was trained, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, Protocol, Union

import torch
import torch.distributed as dist
from huggingface_hub import snapshot_download
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import ProcessorMixin

from depthup import files
from depthup.errors import UserError
from depthup.model.card import write_card
from depthup.model.encoders import kept_kind
from depthup.model.remote_code import write_code
from depthup.model.standalone import is_inside
from depthup.model.stored import INDEX, WEIGHTS, read, shapes
from depthup.model.summary import ModelSummary
from depthup.registration import MODEL_TYPE

FRONT_END = ("encoder.", "connector.")
"""How the names of its tensors begin."""
MEANING = {
    "encoder": ("frame_rate", "decoder", "pad_to_30s", "num_mel_bins", "width", "num_layers"),
    "connector": ("name", "slices"),
    "upscale": ("layer", "num_layers", "scope", "width", "feed_forward_width", "cgmlp_width", "kernel_size"),
    "lora": ("rank", "alpha"),
}
"""Settings of each section by which trained weights mean something else, or are others."""


class Trained(Protocol):
    """What of a `SpeechLM` a checkpoint is made of."""

    config: Any
    scope: Any

    @property
    def keeps_text(self) -> bool: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def summary(self) -> ModelSummary: ...


def find(name: Union[str, Path], **options: Any) -> Path:
    """The directory of a checkpoint, fetched from the hub where `name` is no directory. Raises UserError.

    `options` are those of `huggingface_hub.snapshot_download`.
    """
    directory = Path(name)
    if not directory.is_dir():
        try:
            directory = Path(snapshot_download(str(name), **options))
        except Exception as error:
            raise UserError(f"{name}: no such checkpoint directory, and no such model on the hub") from error
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory}: no depthup checkpoint, config.json is missing")
    if not (directory / WEIGHTS).is_file() and not (directory / INDEX).is_file():
        raise UserError(f"{directory}: no depthup checkpoint, {WEIGHTS} is missing")
    try:
        told = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: config.json cannot be read as JSON ({error})") from error
    if not isinstance(told, dict) or told.get("model_type") != MODEL_TYPE:
        raise UserError(f"{directory}: config.json is not of a depthup checkpoint; make one with `depthup upscale`")
    return directory


def trained_tensors(model: Trained) -> dict[str, torch.Tensor]:
    """The tensors that train, by name; under FSDP this rank's shards of them."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same on the CPU, gathered where they are sharded: every rank must call it, and rank 0 gets them."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    gathered = ((name, t.full_tensor() if isinstance(t, DTensor) else t) for name, t in tensors.items())
    return {name: tensor.detach().cpu().contiguous() for name, tensor in gathered if first}


def save(
    model: Trained,
    directory: Path,
    processor: Optional[ProcessorMixin] = None,
    tensors: Optional[dict[str, torch.Tensor]] = None,
) -> None:
    """Write a checkpoint, with the processor's files where there is one; a directory with weights is complete.

    Arguments and errors are those of `write`.
    """
    with files.disk_guard(directory), files.filled(directory, last=WEIGHTS) as partial:
        if processor is not None:
            processor.save_pretrained(partial)
        write(model, partial, tensors, about=directory)


def write(
    model: Trained,
    directory: Path,
    tensors: Optional[dict[str, torch.Tensor]] = None,
    about: Optional[Path] = None,
) -> None:
    """Write trained tensors, configuration and a model card into a directory that nobody reads yet.

    Args:
        tensors: those of `whole(trained_tensors(model))`, where they have been gathered already.
        about: the run's directory, which tells the card of data and scores.

    Raises UserError instead where a weight is not a finite number.
    """
    tensors = tensors if tensors is not None else whole(trained_tensors(model))
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"weights: {name} is not finite, so it was not saved; lower train.learning_rate")
    model.config.save_pretrained(directory)
    write_code(directory)
    write_card(model, directory, about or directory)
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})


def load_trained(model: Trained, directory: Path, starts: bool = False, part: tuple[str, ...] = ("",)) -> None:
    """Fill in the trained tensors of a checkpoint, or those of one `part`, by the beginnings of their names.

    Where it `starts` another run, it may lack a CTC head, and the encoder, if that stayed as it came.

    Raises UserError when it is truncated, holds other tensors, or was trained with another base or speech encoder.
    """
    wanted = {name: tensor for name, tensor in trained_tensors(model).items() if name.startswith(part)}
    kept = _check_kept(model, directory, part == FRONT_END)
    there = {name: shape for name, shape in shapes(directory).items() if name.startswith(part)}
    there = {name: shape for name, shape in there.items() if name in wanted or not is_inside(name)}
    frozen = () if (kept.get("encoder") or {}).get("train", True) else ("encoder.",)
    allowed = {name for name in wanted if starts and name.startswith(("connector.ctc_head.", *frozen))}
    if odd := sorted((there.keys() | allowed) ^ wanted.keys()):
        raise UserError(f"{directory}: {len(odd)} tensors too many or missing, such as {odd[0]}; other layers?")
    for name, shape in there.items():
        if shape != list(wanted[name].shape):
            raise UserError(f"{directory}: {name} has another shape than the recipe's model")
    for name, tensor in read(directory, there):
        wanted[name].copy_(tensor)


def _check_kept(model: Trained, directory: Path, front_end: bool) -> dict[str, Any]:
    """The checkpoint's configuration, which must mean the same by its tensors as the model does."""
    kept = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for key, what in {"encoder_hash": "speech encoder", **({} if front_end else {"base_hash": "base"})}.items():
        before, now = kept.get(key), getattr(model.config, key)
        if before and now and before != now:
            raise UserError(f"{directory}: was trained with another {what}; give the same one, or begin another run")
    sections = list(MEANING)[:2] if front_end else list(MEANING)
    there, here = _settings(kept), _settings(model.config.to_dict())
    for section in sections:
        before, now = there[section], here[section]
        if "layer" in before and before["layer"] == now.get("layer"):  # its kind's own settings
            before, now = ({**told, **told[told["layer"]]} for told in (before, now))
        for key in MEANING[section]:
            if key in before and key in now and before[key] != now[key]:
                raise UserError(
                    f"{directory}: was trained with {section}.{key} {before[key]}, which is {now[key]} here; "
                    "give the same, or begin another run"
                )
    return kept


def _settings(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections of `MEANING`; where the kind of encoder makes nothing of a setting, it is what the kind does."""
    sections = {name: config.get(name) or {} for name in MEANING}
    kind = kept_kind(sections["encoder"], config.get("encoder_config"))
    return sections | {"encoder": sections["encoder"] | {"pad_to_30s": kind.pads_to_30s}}
