"""Linear layers and attention the fast way on CPUs where PyTorch's own choice is slower."""

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


def fast_kernels(device: torch.device) -> AbstractContextManager:
    """Within it linear layers in float32, and attention that trains in bfloat16, are faster and round otherwise.

    Training and transcription enter it; what must be bit-identical to the base does not.
    """
    useful = device.type == "cpu" and (torch.is_grad_enabled() or _pays())
    return _FastKernels() if useful else nullcontext()


def multiplies_bfloat16() -> Optional[bool]:
    """Whether this CPU has instructions for it; None where that cannot be told."""
    if "flags" not in _cpu():
        return None
    return "avx512_bf16" in _cpu() or "amx_bf16" in _cpu()


@cache
def _cpu() -> str:
    """What Linux tells of it."""
    told = Path("/proc/cpuinfo")
    return told.read_text(encoding="utf-8") if told.is_file() else ""


@cache
def _pays() -> bool:
    """Whether MKL's products are slow here, as on AMD's processors.

    Told by name and not by trial, since a resumed run must choose alike.
    """
    return hasattr(torch.ops.mkldnn, PRODUCT) and torch.backends.mkl.is_available() and "AuthenticAMD" in _cpu()


class _FastKernels(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Optional[dict[str, Any]] = None) -> Any:
        training = torch.is_grad_enabled()
        if func is F.linear and not kwargs and _pays() and _fits(*args[:2]):
            return (_Linear.apply if training else _product)(*args)
        if func is F.scaled_dot_product_attention and training and args and args[0].dtype == torch.bfloat16:
            return _attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Optional[torch.Tensor] = None,
    *args: Any,
    **options: Any,
) -> torch.Tensor:
    """In float32, since the backward pass in bfloat16 takes up to ten times as long."""
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.float()
    exact = (query.float(), key.float(), value.float(), attn_mask, *args)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(*exact, **options).to(query.dtype)


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
