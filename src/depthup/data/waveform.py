"""A recording as people pass it in Python, as samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, Union
from urllib.request import urlopen

import numpy as np
import soxr
import torch

from depthup.data.reader import RATES, read
from depthup.errors import UserError

Audio = Union[str, Path, bytes, BinaryIO, np.ndarray, torch.Tensor, Mapping[str, Any]]
"""A path or URL, an encoded file or an open one, samples [samples], or what a Hugging Face dataset has in its column
`audio`: `{"array", "sampling_rate"}`, `{"path"}`, `{"bytes"}`, or a torchcodec decoder."""
log = logging.getLogger("depthup")

URLS = ("http://", "https://", "file://", "data:")
DOWNLOAD_SECONDS = 60.0


def waveform(audio: Audio, sampling_rate: int) -> np.ndarray:
    """Mono float32 samples [samples] at `sampling_rate` of a recording; an array without a rate is at it already.

    Raises UserError for what cannot be read or is no recording.
    """
    if hasattr(audio, "get_all_samples"):  # torchcodec
        decoded = audio.get_all_samples()
        return _samples(decoded.data.mean(0), decoded.sample_rate, sampling_rate)
    if isinstance(audio, Mapping):
        return _of_mapping(audio, sampling_rate)
    if isinstance(audio, (np.ndarray, torch.Tensor, list, tuple)):
        return _samples(audio, sampling_rate, sampling_rate)
    if isinstance(audio, str) and audio.startswith(URLS):
        audio = _download(audio)
    samples, notes = read(audio, sampling_rate)
    for note in notes:
        log.warning("%s", note)
    return samples


def _of_mapping(audio: Mapping[str, Any], sampling_rate: int) -> np.ndarray:
    samples = audio.get("array", audio.get("raw"))
    if samples is not None:
        if "sampling_rate" not in audio:
            raise UserError("audio: samples in a mapping need their sampling_rate beside them")
        rate = audio["sampling_rate"]
        if not isinstance(rate, (int, np.integer)) or not RATES[0] <= rate <= RATES[1]:
            raise UserError(f"audio: sampling_rate must be a whole number of Hz, not {rate!r}")
        return _samples(samples, int(rate), sampling_rate)
    source = audio.get("bytes") or audio.get("path") or audio.get("url")
    if source is None:
        raise UserError(f"audio: a mapping with {', '.join(audio)}; give array and sampling_rate, bytes, path or url")
    return waveform(source, sampling_rate)


def _samples(given: Any, rate: int, sampling_rate: int) -> np.ndarray:
    samples = given.detach().cpu().float().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    if samples.dtype.kind == "i":  # as 16-bit files are read by many
        samples = samples / -float(np.iinfo(samples.dtype).min)
    if samples.ndim != 1 or samples.dtype.kind != "f" or not len(samples):
        raise UserError(f"audio: an array of shape {samples.shape} and {samples.dtype}; give mono samples [samples]")
    if not np.isfinite(samples).all():
        raise UserError("audio: has samples that are NaN or infinite")
    samples = samples.astype(np.float32)
    return samples if rate == sampling_rate else soxr.resample(samples, rate, sampling_rate)


def _download(url: str) -> bytes:
    try:
        with urlopen(url, timeout=DOWNLOAD_SECONDS) as response:
            return response.read()
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(f"{url}: cannot be fetched ({getattr(error, 'reason', error)})") from error
