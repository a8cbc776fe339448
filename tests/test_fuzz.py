"""Malformed recordings and manifests: refused in one line or read, quickly, in little memory, disturbing nothing else.

`make fuzz` tries ten times as many.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = int(os.environ.get("DEPTHUP_FUZZ", "1"))
SCRIPT = Path(__file__).with_name("fuzzing.py")


@pytest.mark.parametrize(("kind", "examples"), [("audio", 100), ("manifests", 30)])
def test_what_is_malformed_does_no_harm(tmp_path: Path, kind: str, examples: int):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is measured as Linux counts it")
    speech = Path(__file__).parents[2] / "shared" / "speech"
    words = [sys.executable, str(SCRIPT), kind, str(TIMES * examples), str(tmp_path)]
    found = subprocess.run([*words, str(speech)] if speech.is_dir() else words, capture_output=True, text=True)
    kept = sorted(path.name for path in tmp_path.glob("current.*"))
    assert found.returncode == 0, f"exit {found.returncode} at {kept} in {tmp_path}:\n{found.stderr[-3000:]}"
    assert "Traceback" not in found.stderr, found.stderr[-3000:]
    told = json.loads(found.stdout.splitlines()[-1])
    assert told[kind] == told["read"] + told["refused"] and min(told["read"], told["refused"]) > 0
    print(found.stdout)
