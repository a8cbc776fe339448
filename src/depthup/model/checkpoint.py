"""A checkpoint directory: what was trained, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, Protocol, Union

import torch
import torch.distributed as dist
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from depthup.errors import UserError
from depthup.model.remote_code import write_code
from depthup.model.upscale import ModelSummary

WEIGHTS = "model.safetensors"
FRONT_END = ("encoder.", "connector.")
"""How the names of its tensors begin."""


class Trained(Protocol):
    """What of a `SpeechLM` a checkpoint is made of."""

    config: Any
    scope: Any

    @property
    def keeps_text(self) -> bool: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def summary(self) -> ModelSummary: ...


def find(name: Union[str, Path]) -> Path:
    """The directory of a checkpoint, fetched from the hub where `name` is no directory. Raises UserError."""
    directory = Path(name)
    if not directory.is_dir():
        try:
            directory = Path(snapshot_download(str(name)))
        except Exception as error:
            raise UserError(f"{name}: no such checkpoint directory, and no such model on the hub") from error
    for needed in ("config.json", WEIGHTS):
        if not (directory / needed).is_file():
            raise UserError(f"{directory}: no depthup checkpoint, {needed} is missing")
    if json.loads((directory / "config.json").read_text()).get("model_type") != "depthup":
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


def save_trained(model: Trained, directory: Path, tensors: Optional[dict[str, torch.Tensor]] = None) -> None:
    """Write trained tensors, configuration and a model card into a directory that nobody reads yet.

    `tensors` are those of `whole(trained_tensors(model))`, where they have been gathered already.
    Raises UserError instead where a weight is not a finite number.
    """
    tensors = tensors if tensors is not None else whole(trained_tensors(model))
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"weights: {name} is not finite, so it was not saved; lower train.learning_rate")
    model.config.save_pretrained(directory)
    write_code(directory)
    (directory / "README.md").write_text(model_card(model), encoding="utf-8")
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})


def load_trained(model: Trained, directory: Path, may_lack: str = "", part: tuple[str, ...] = ("",)) -> None:
    """Fill in the trained tensors of a checkpoint, or those of one `part`, by the beginnings of their names.

    Raises UserError when it is truncated or holds other tensors; it may lack those named `may_lack`...
    """
    path = directory / WEIGHTS
    wanted = {name: tensor for name, tensor in trained_tensors(model).items() if name.startswith(part)}
    try:
        with safe_open(path, "pt") as file:
            names = {name for name in file.keys() if name.startswith(part)}  # noqa: SIM118
            allowed = {name for name in wanted if may_lack and name.startswith(may_lack)}
            if odd := sorted((names | allowed) ^ set(wanted)):
                raise UserError(f"{path}: {len(odd)} tensors too many or missing, such as {odd[0]}; other layers?")
            for name in names:
                if file.get_slice(name).get_shape() != list(wanted[name].shape):
                    raise UserError(f"{path}: {name} has another shape than the recipe's model")
                wanted[name].copy_(file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read, it may be truncated ({error})") from error


def model_card(model: Trained) -> str:
    """A short README for the hub."""
    config, summary = model.config, model.summary()
    unchanged = "bit-identical to the base" if model.keeps_text else "changed"
    return (
        f"---\nlibrary_name: depthup\nbase_model: {config.base}\npipeline_tag: automatic-speech-recognition\n---\n"
        f"# Speech LLM from {config.base}\n\n"
        f"Adapted with depthup: method `{config.method}`, scope `{model.scope}`, "
        f"{summary.trainable:,} trained parameters ({summary.share_of_full:.1%} of full fine-tuning). "
        f"Text-only behaviour: {unchanged}.\n\nThis repository holds only what was trained; the base is "
        "fetched and checked on loading:\n\n```python\nfrom depthup.api import load, transcribe\n\n"
        'model, processor = load("PATH")\nprint(transcribe(model, processor, ["speech.wav"]))\n```\n'
    )
