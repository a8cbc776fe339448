"""A device that is not the CPU, for machines without one: it computes on the CPU and refuses what a GPU would refuse.

It goes by the name `meta`, the only other device that PyTorch knows everywhere; within `elsewhere()` its tensors have
values. Indexing by a list of numbers is the one thing that it gets wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"
TAKE_INDICES_OF_THE_CPU = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
)


@contextmanager
def elsewhere() -> Iterator[str]:
    """Within it a model may be moved to the device of this name."""
    make = torch.tensor

    def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        made = make(data, *args, **kwargs)
        return made if device is None else made.to(device)

    with pytest.MonkeyPatch.context() as patch, _Device():
        patch.setattr(torch, "tensor", tensor)  # which makes tensors of this device without saying so
        patch.setattr(torch, "inference_mode", lambda *_: torch.no_grad())  # has no such tensors
        yield NAME


class _Elsewhere(torch.Tensor):
    """A tensor of that device, around one of the CPU."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> _Elsewhere:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return cls._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, device=NAME, **layout)

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def __repr__(self, **_: Any) -> str:
        return f"elsewhere: {self.held}"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.tolist:
            return args[0].held.tolist()
        if func is torch.Tensor.numpy:
            raise TypeError("cannot convert a tensor of another device to numpy; use Tensor.cpu() first")
        with torch._C.DisableTorchFunctionSubclass():  # what comes back need not be of this class
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Device(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = any(isinstance(t, _Elsewhere) for t in tensors)
    if there and func is not torch.ops.aten.copy_.default:
        indexes = isinstance(tensors[0], _Elsewhere) and func in TAKE_INDICES_OF_THE_CPU
        if not indexes and any(not isinstance(t, _Elsewhere) and t.dim() for t in tensors):
            raise RuntimeError(f"{func}: tensors of two devices, of shapes {[tuple(t.shape) for t in tensors]}")
    if (device := kwargs.get("device")) is not None:
        there, kwargs = device.type == NAME, {**kwargs, "device": torch.device("cpu")}
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    known = {id(_held(t)): t for t in tensors}  # what changes a tensor in place gives that tensor

    def given(value: Any) -> Any:
        if id(value) in known:
            return known[id(value)]
        return _Elsewhere(value) if there and isinstance(value, torch.Tensor) else value

    return tree_map(given, found)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, _Elsewhere) else value
