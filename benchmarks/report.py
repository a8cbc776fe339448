"""What benchmarks share: their rows as a JSON file, with what they were measured on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch


def save(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Write rows with the command and the machine to `path`, or nowhere."""
    if path is None:
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    told = {"command": " ".join(sys.argv), "device": device, "threads": torch.get_num_threads(), "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
