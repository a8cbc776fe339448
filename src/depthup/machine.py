"""What this machine trains on, as far as torch and the system tell."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Optional

from depthup.planning.hardware import GPUS

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """A machine for training."""

    cores: int
    bfloat16: Optional[bool]
    """Whether its GPUs, or without one its cores, multiply in bfloat16; None where it cannot be told."""
    gpu: Optional[str] = None
    """What its GPUs are called; None where there are none that torch can use."""
    gpus: int = 0
    gpu_memory: float = 0.0
    """GiB of each."""

    def told(self) -> str:
        """In a few words."""
        if self.gpu:
            return f"{self.gpus} x {self.gpu}, {self.gpu_memory:.0f} GiB"
        known = {True: ", bfloat16", False: ", no bfloat16", None: ""}[self.bfloat16]
        return f"{self.cores} CPU cores{known}"


def of_name(name: str) -> Machine:
    """One GPU by its name in `depthup.planning.hardware`, with a usual number of cores beside it; or a `cpu`."""
    if name == "cpu":
        return Machine(os.cpu_count() or 1, bfloat16=None)
    return Machine(8, True, name, 1, (GPUS[name].memory_gb or 0) * 1e9 / GIB)


def this_machine() -> Machine:
    """The one that this runs on."""
    import torch

    from depthup.model.cpu_kernels import multiplies_bfloat16

    cores = os.cpu_count() or 1
    if not torch.cuda.is_available():
        return Machine(cores, multiplies_bfloat16())
    memory = torch.cuda.get_device_properties(0).total_memory / GIB
    gpus = torch.cuda.device_count()
    return Machine(cores, torch.cuda.is_bf16_supported(), torch.cuda.get_device_name(), gpus, memory)
