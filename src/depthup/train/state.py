"""Everything a resumed run needs besides weights, without pickle: safetensors for tensors, JSON for the rest."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

TENSORS, REST = "training_state.safetensors", "training_state.json"


def save_state(directory: Path, optimizer: Any, scheduler: Any, extra: dict[str, Any]) -> None:
    """Write optimizer, schedule, random number generators and `extra` (JSON values) into `directory`."""
    state = optimizer.state_dict()
    tensors = {
        f"optimizer.{index}.{name}": value for index, values in state["state"].items() for name, value in values.items()
    }
    tensors["rng.torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    numpy_state = np.random.get_state(legacy=False)
    rest = {
        "param_groups": state["param_groups"],
        "scheduler": scheduler.state_dict(),
        "rng": {
            "python": random.getstate(),
            "numpy": {**numpy_state, "state": {k: np.asarray(v).tolist() for k, v in numpy_state["state"].items()}},
        },
        **extra,
    }
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, directory / TENSORS)
    (directory / REST).write_text(json.dumps(rest))


def load_state(directory: Path, optimizer: Any, scheduler: Any) -> dict[str, Any]:
    """Restore what `save_state` wrote, but for the generators; returns all of its JSON."""
    tensors, rest = load_file(directory / TENSORS), json.loads((directory / REST).read_text())
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})
    scheduler.load_state_dict(rest["scheduler"])
    return rest


def load_rng(directory: Path) -> None:
    """Restore the random number generators that `save_state` wrote."""
    tensors, rng = load_file(directory / TENSORS), json.loads((directory / REST).read_text())["rng"]
    version, internal, gauss = rng["python"]
    random.setstate((version, tuple(internal), gauss))
    inner = rng["numpy"]["state"]
    np.random.set_state({**rng["numpy"], "state": {**inner, "key": np.array(inner["key"], dtype=np.uint32)}})
    torch.set_rng_state(tensors["rng.torch"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
