"""DeepSpeed's ZeRO-2 keeps AdamW's state in flat partitions; here it is read and written by parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper

MOMENTS = ("exp_avg", "exp_avg_sq")


def is_partitioned(optimizer: Any) -> bool:
    """Whether this is DeepSpeed's optimizer, as Accelerate wraps it."""
    return isinstance(optimizer, DeepSpeedOptimizerWrapper)


def param_groups(optimizer: Any) -> list[dict[str, Any]]:
    """The parameter groups of AdamW's `state_dict`, as if it had the parameters and no partitions."""
    zero, first, groups = optimizer.optimizer, 0, []
    for group, parameters in zip(zero.param_groups, zero.bit16_groups, strict=True):
        groups.append({**group, "params": list(range(first, first + len(parameters)))})
        first += len(parameters)
    return groups


def gathered(optimizer: Any) -> dict[str, torch.Tensor]:
    """AdamW's tensors by name, one parameter gathered at a time: every rank must call it, and rank 0 gets them."""
    from deepspeed.utils import safe_get_full_optimizer_state

    _begin(optimizer.optimizer)
    tensors: dict[str, torch.Tensor] = {}
    for index, parameter, flat_state in _parameters(optimizer.optimizer):
        for name in MOMENTS:
            whole = safe_get_full_optimizer_state(parameter, name)
            if dist.get_rank() == 0:
                tensors[f"optimizer.{index}.{name}"] = whole.cpu()
        tensors[f"optimizer.{index}.step"] = flat_state["step"].cpu().clone()
    return tensors


def load(optimizer: Any, state: dict[int, dict[str, torch.Tensor]], groups: list[dict[str, Any]]) -> None:
    """Restore AdamW's state of whole parameters, by their index, and its groups."""
    from deepspeed.utils import safe_set_full_optimizer_state

    zero = optimizer.optimizer
    for group, saved in zip(zero.param_groups, groups, strict=True):
        group.update({key: value for key, value in saved.items() if key != "params"})
    _begin(zero)
    for index, parameter, flat_state in _parameters(zero):
        for name, value in state.get(index, {}).items():
            if name in MOMENTS:
                safe_set_full_optimizer_state(parameter, value, name)
            else:  # a group has one count of steps: that of its parameters which were trained longest
                flat_state[name].clamp_(min=float(value))


def _parameters(zero: Any) -> Iterator[tuple[int, torch.nn.Parameter, dict[str, torch.Tensor]]]:
    """All trained parameters in order, with the state of the flat partition of their group."""
    index = 0
    for parameters, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        for parameter in parameters:
            yield index, parameter, zero.optimizer.state[flat]
            index += 1


def _begin(zero: Any) -> None:
    """Make the state that AdamW makes at its first step, where it has not been, and tell the parameters of it."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    for parameters, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        if not zero.optimizer.state[flat]:
            step = torch.zeros((), device=flat.device)
            zero.optimizer.state[flat] = {"step": step, **{name: torch.zeros_like(flat.detach()) for name in MOMENTS}}
        # DeepSpeed 0.19 does so when its first group has made a step, and the others then have no state yet.
        lazy_init_hp_params_optimizer_state(parameters, flat, zero.optimizer.state)
