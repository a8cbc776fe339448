"""What benchmarks share: their clock, and their rows as a JSON file with what they were measured on."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

WITHOUT_CTC = ("--train.ctc_weight=0", "--train.front_end_steps=0")
"""Changes to a recipe."""


def now() -> float:
    """Seconds, when all work given to a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def save(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Write rows with the command and the machine to `path`, or nowhere."""
    if path is None:
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    told = {"command": " ".join(sys.argv), "device": device, "threads": torch.get_num_threads(), "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
