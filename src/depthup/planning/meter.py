"""Counts what a training step multiplies and keeps, on tensors that need not have contents.

Nothing here knows a formula for any model. A step runs as it will, forward and backward, on fake tensors: operations
pass by with the shapes they will have, and are counted. Ids, lengths and masks stay real, for models look into them.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import Any, Optional, Union

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten
FORWARD, RECOMPUTE, BACKWARD = "forward", "recompute", "backward"
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index)


def attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Scores and their use; the whole square, also where a kernel would skip what causality hides."""
    batch, heads, queries, size = query.shape
    return 2 * batch * heads * queries * key.shape[2] * (size + value.shape[3])


def attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Five products, since kernels make the scores again rather than keep them."""
    batch, heads, queries, size = query.shape
    return 2 * batch * heads * queries * key.shape[2] * (3 * size + 2 * value.shape[3])


def convolution_backward_flops(gradient: Any, inputs: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    """As much as the forward pass for each gradient asked for; torch's own count takes no note of groups."""
    return 2 * prod(gradient.shape[2:]) * gradient.shape[0] * prod(weight.shape) * sum(args[7][:2])


ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}
FLOPS: dict[Any, Any] = {**flop_registry, **ATTENTION, aten.convolution_backward: convolution_backward_flops}


class Meter(TorchDispatchMode):
    """Within it, floating-point operations and live memory of fake tensors are counted, by part of the model.

    An operation belongs to the innermost of the named modules that runs, or if none does to the one that ran last (so
    the loss is the head's); one of the backward pass to where its forward operation belonged.
    """

    def __init__(self, parts: Iterable[tuple[str, nn.Module]], known: Iterable[torch.Tensor]) -> None:
        """`parts`: names of modules; several modules may share one. `known`: tensors that are no activations."""
        super().__init__()
        self.flops: Counter[tuple[str, str]] = Counter()
        """(part, phase) -> floating-point operations, a multiplication with its addition being two."""
        self.attention: Counter[str] = Counter()
        """Of them, those of attention scores, by phase."""
        self.live: Counter[str] = Counter()
        """Part -> bytes of tensors made within it that still exist, gradients of weights not among them."""
        self.gradients = 0
        self.peak = self.peak_with_gradients = 0
        self._inside: list[str] = []
        self._last = ""
        self._began: list[tuple[int, str]] = [(-1, "")]  # from which of autograd's sequence numbers on a part ran
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = None
        self._handles: list[Any] = []
        for name, module in parts:
            self._watch(name, module)

    def _watch(self, name: str, module: nn.Module) -> None:
        def enter(*_: Any) -> None:
            self._inside.append(name)
            self._now(name)

        def leave(*_: Any) -> None:
            self._inside.pop()
            if self._inside:
                self._now(self._inside[-1])

        self._handles.append(module.register_forward_pre_hook(enter))
        self._handles.append(module.register_forward_hook(leave, always_call=True))
        for parameter in module.parameters():
            if parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._is_gradient))

    def _now(self, part: str) -> None:
        self._last = part
        self._began.append((torch.autograd._get_sequence_nr(), part))

    def __exit__(self, *args: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*args)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Optional[dict] = None) -> Any:
        kwargs = kwargs or {}
        operation = func._overloadpacket
        if operation in INDEXING:
            args = (args[0], _where(args[1]), *args[2:])
        if operation in (aten._ctc_loss, aten._ctc_loss_backward) and isinstance(args[0], FakeTensor):
            out: Any = _ctc(*args) if operation is aten._ctc_loss else torch.empty_like(args[1])
        else:
            out = func(*args, **kwargs)
        if operation in FLOPS:
            part, phase = self._place()
            count = FLOPS[operation](*args, **kwargs, out_val=out)
            self.flops[part, phase] += count
            self.attention[phase] += count if operation in ATTENTION else 0
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():  # masks added to scores among them
                self._born(tensor)
        return out

    def _place(self) -> tuple[str, str]:
        """Part and phase of the operation that runs now."""
        node = torch._C._current_autograd_node()
        if node is None:
            return self._last, FORWARD
        place = bisect_right(self._began, node._sequence_nr(), key=lambda entry: entry[0])
        # Checkpointed layers run again while a node of theirs waits, and record a graph; a backward pass records none.
        # (Functions with a backward pass of our own record theirs later: run again, they count as backward.)
        return self._began[place - 1][1], RECOMPUTE if torch.is_grad_enabled() else BACKWARD

    def _born(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            entry: list[Union[str, int, None]] = [self._place()[0], storage.nbytes()]
            self._seen[storage] = entry
            self._add(entry, 1)
            weakref.finalize(storage, self._add, entry, -1).atexit = False

    def _add(self, entry: list[Any], sign: int) -> None:
        part, size = entry
        if part is None:
            self.gradients += sign * size
        else:
            self.live[part] += sign * size
        live = self.live.total()
        self.peak = max(self.peak, live)
        self.peak_with_gradients = max(self.peak_with_gradients, live + self.gradients)

    def _is_gradient(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        entry = self._seen.get(parameter.grad.untyped_storage())
        if entry is not None and entry[0] is not None:
            self._add(entry, -1)
            entry[0] = None
            self._add(entry, 1)


def _where(indices: Any) -> list[Any]:
    """Indices in place of boolean masks, whose number of results nobody could know from their shape."""
    found: list[Any] = []
    for index in indices:
        found += index.nonzero().unbind(1) if index is not None and index.dtype == torch.bool else [index]
    return found


def _ctc(log_probs: torch.Tensor, targets: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the CTC loss gives and keeps: a loss per row, and the table over times and blank-interleaved labels."""
    time, batch, _ = log_probs.shape
    return log_probs.new_empty(batch), log_probs.new_empty(batch, time, 2 * targets.shape[-1] + 1)
