"""GPUs by name, with the numbers of their data sheets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Union

from depthup.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """What a step runs on."""

    name: str
    tflops: float
    """Dense bfloat16 TFLOP/s on a GPU (no sparsity), float32 on a CPU."""
    memory_gb: Optional[float] = None
    bandwidth_gb_s: Optional[float] = None
    """Memory bandwidth; None where unknown, and then AdamW's traffic is not counted."""

    @property
    def mixed_precision(self) -> bool:
        """Whether frozen weights are kept, and products computed, in bfloat16 unless the recipe says otherwise."""
        return self.name != "cpu"


GPUS = {
    "a100": Device("a100", 312.0, 80.0, 2039.0),
    "h100": Device("h100", 989.0, 80.0, 3350.0),
    "h200": Device("h200", 989.0, 141.0, 4800.0),
    "b200": Device("b200", 2250.0, 180.0, 8000.0),
    "l40s": Device("l40s", 362.0, 48.0, 864.0),
    "rtx4090": Device("rtx4090", 165.0, 24.0, 1008.0),
}
"""The SXM variants where there are several, with 80 GB where there are several sizes."""
OWN = ("custom", "cpu")
NAMES = (*GPUS, *OWN)


def device(name: str, tflops: Optional[float] = None, memory_gb: Optional[float] = None) -> Device:
    """A device by name; for `custom` (a GPU) and `cpu` with numbers of its own. Raises UserError."""
    if name in GPUS:
        if tflops is not None or memory_gb is not None:
            raise UserError(f"--gpu {name}: has its own --tflops and --memory-gb; use --gpu custom to give others")
        return GPUS[name]
    if name not in OWN:
        raise UserError(f"--gpu {name}: unknown; there are {', '.join(NAMES)}")
    if tflops is None or tflops <= 0 or (memory_gb is not None and memory_gb <= 0):
        raise UserError(f"--gpu {name}: give its TFLOP/s with --tflops, and GB with --memory-gb, both positive")
    return Device(name, tflops, memory_gb)


def matmul_tflops(
    size: int = 1024, repeats: int = 5, device: Union[str, torch.device] = "cpu", dtype: Optional[torch.dtype] = None
) -> float:
    """TFLOP/s that a device reaches now on square matrices, by default in float32, multiplied as training does."""
    import torch

    from depthup.model.cpu_kernels import fast_kernels

    matrix = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats + 1):
        began = time.perf_counter()
        with torch.no_grad(), fast_kernels(matrix.device):
            torch.nn.functional.linear(matrix, matrix)
        if matrix.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e12
