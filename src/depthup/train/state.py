"""Everything a resumed run needs besides weights, without pickle: safetensors for tensors, JSON for the rest."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import set_seed

from depthup.model.checkpoint import whole
from depthup.train import zero

TENSORS, REST = "training_state.safetensors", "training_state.json"


def rng_state() -> dict[str, Any]:
    """Where this process's random number generators stand: tensors, and JSON values under `rest`."""
    numpy_state = np.random.get_state(legacy=False)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "rest": {
            "python": random.getstate(),
            "numpy": {**numpy_state, "state": {k: np.asarray(v).tolist() for k, v in numpy_state["state"].items()}},
        },
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def optimizer_tensors(optimizer: Any) -> dict[str, torch.Tensor]:
    """AdamW's tensors by name, gathered from all ranks where they are sharded; every rank must call it."""
    if zero.is_partitioned(optimizer):
        return zero.gathered(optimizer)
    state = optimizer.state_dict()["state"]
    return whole(
        {f"optimizer.{index}.{name}": value for index, values in state.items() for name, value in values.items()}
    )


def save_state(
    directory: Path,
    tensors: dict[str, torch.Tensor],
    optimizer: Any,
    scheduler: Any,
    rngs: Sequence[dict[str, Any]],
    extra: dict[str, Any],
) -> None:
    """Write `optimizer_tensors`, schedule, each rank's `rng_state` and `extra` (JSON values) into `directory`."""
    for rank, rng in enumerate(rngs):
        tensors = tensors | {f"rng.{rank}.{device}": values for device, values in rng.items() if device != "rest"}
    groups = zero.param_groups(optimizer) if zero.is_partitioned(optimizer) else optimizer.state_dict()["param_groups"]
    rest = {
        "param_groups": groups,
        "scheduler": scheduler.state_dict(),
        "rngs": [rng["rest"] for rng in rngs],
        **extra,
    }
    save_file(tensors, directory / TENSORS)
    (directory / REST).write_text(json.dumps(rest))


def load_rest(directory: Path) -> dict[str, Any]:
    """All JSON values that `save_state` wrote."""
    return json.loads((directory / REST).read_text())


def load_state(directory: Path, optimizer: Any, scheduler: Any) -> dict[str, Any]:
    """Restore what `save_state` wrote, but for the generators; returns all of its JSON."""
    tensors, rest = load_file(directory / TENSORS), load_rest(directory)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    if zero.is_partitioned(optimizer):
        zero.load(optimizer, state, rest["param_groups"])
    else:
        optimizer.load_state_dict({"state": _sharded(state, optimizer), "param_groups": rest["param_groups"]})
    scheduler.load_state_dict(rest["scheduler"])
    return rest


def _sharded(state: dict[int, dict[str, torch.Tensor]], optimizer: Any) -> dict[int, dict[str, torch.Tensor]]:
    """The same, where FSDP shards a parameter as that parameter is sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state.items():
        parameter = parameters[index]
        if isinstance(parameter, DTensor):
            for name, value in values.items():
                if value.shape == parameter.shape:
                    values[name] = distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return state


def load_rng(directory: Path, rank: int, world_size: int, seed: int) -> None:
    """Restore what `rng_state` gave on this rank; after a change in the number of processes begin from `seed`."""
    tensors, rngs = load_file(directory / TENSORS), load_rest(directory)["rngs"]
    if len(rngs) != world_size:
        set_seed(seed + rank)
        return
    version, internal, gauss = rngs[rank]["python"]
    random.setstate((version, tuple(internal), gauss))
    inner = rngs[rank]["numpy"]["state"]
    np.random.set_state({**rngs[rank]["numpy"], "state": {**inner, "key": np.array(inner["key"], dtype=np.uint32)}})
    torch.set_rng_state(tensors[f"rng.{rank}.torch"])
    if f"rng.{rank}.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[f"rng.{rank}.cuda"])
