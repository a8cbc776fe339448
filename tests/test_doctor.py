"""`depthup doctor` tells what is there, and what to do where something is not."""

from __future__ import annotations

import importlib.util
import time

from depthup import doctor
from depthup.cli import main
from depthup.model import cpu_kernels


def told(monkeypatch) -> dict[str, doctor.Finding]:
    monkeypatch.setattr(doctor, "_ask_hub", lambda: True)
    return {finding.name: finding for finding in doctor.findings()}


def test_every_finding_says_something_and_missing_parts_bring_advice(monkeypatch, capsys):
    found = told(monkeypatch)
    assert all(finding.found for finding in found.values())
    assert found["model hub"].found == "answers" and not found["model hub"].advice
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(cpu_kernels, "multiplies_bfloat16", lambda: False)
    bare = told(monkeypatch)
    assert bare["recordings"].advice and bare["voice activity"].advice
    assert "float32" in bare["processor"].found and bare["extras"].found == "none"


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.2)
    monkeypatch.setattr(doctor, "_ask_hub", lambda: time.sleep(30) or True)
    began = time.perf_counter()
    assert doctor._hub().advice and time.perf_counter() - began < 10
    monkeypatch.setattr(doctor, "_ask_hub", lambda: 1 / 0)
    assert doctor._hub().found == "does not answer"


def test_the_command_prints_a_line_for_each(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_ask_hub", lambda: True)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("Python", "processor", "memory", "GPU", "recordings", "model hub"))
