"""Linear layers by oneDNN's matrix products instead of MKL's, on CPUs where those are slower."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

PRODUCT = "_linear_pointwise"
"""What PyTorch's own compiler calls for a linear; there is no public name for it."""
# Every batch has shapes of its own, and what oneDNN prepares for one takes about a megabyte. It reads these once.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "128")


def fast_linears(device: torch.device) -> AbstractContextManager:
    """Within it linear layers in float32 may be faster and round otherwise, where `device` is a CPU.

    Training and transcription enter it; what must be bit-identical to the base does not.
    """
    return _FastLinears() if device.type == "cpu" and _pays() else nullcontext()


@cache
def _pays() -> bool:
    """MKL takes slow ways on AMD's processors. Told by name and not by trial, since a resumed run must choose alike."""
    cpu = Path("/proc/cpuinfo")
    return (
        hasattr(torch.ops.mkldnn, PRODUCT)
        and torch.backends.mkl.is_available()
        and cpu.is_file()
        and "AuthenticAMD" in cpu.read_text(encoding="utf-8")
    )


class _FastLinears(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Optional[dict[str, Any]] = None) -> Any:
        if func is F.linear and not kwargs and _fits(*args[:2]):
            return (_Linear.apply if torch.is_grad_enabled() else _product)(*args)
        return func(*args, **(kwargs or {}))


def _fits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    plain = all(type(t) in (torch.Tensor, torch.nn.Parameter) and t.dtype == torch.float32 for t in (x, weight))
    return plain and x.numel() > 0 and not torch.is_autocast_enabled("cpu")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Optional[torch.Tensor], ...]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad[:2]
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            _product(grad, weight.t()) if of_x else None,
            # Of this product neither way is the faster one.
            rows.t() @ x.reshape(-1, x.shape[-1]) if of_weight else None,
            *(rows.sum(0) if of_bias else None for of_bias in ctx.needs_input_grad[2:]),
        )


def _product(x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
    """x [..., K] times `weight` [N, K], which may lie the other way round in memory, gives [..., N]."""
    return getattr(torch.ops.mkldnn, PRODUCT)(x, weight, bias, "none", [], "")
