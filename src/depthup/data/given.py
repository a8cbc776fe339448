"""Recordings that are passed in Python instead of being named: a Hugging Face dataset, or a list of dicts."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np
import soundfile

from depthup.data.waveform import waveform
from depthup.errors import UserError

Given = Union[Sequence[Mapping[str, Any]], Any]
"""Rows with the recipe's `data.audio_field`, a path or `{"array", "sampling_rate"}`, and `data.text_field`, which may
have further fields as a manifest has; or a `datasets.Dataset` with such columns."""
PREFIX = "given:"
_known: dict[str, Given] = {}


def is_given(data: Any) -> bool:
    """Whether these are recordings, rather than the name of a source or several names."""
    return hasattr(data, "cast_column") or (
        isinstance(data, (list, tuple)) and bool(data) and all(isinstance(row, Mapping) for row in data)
    )


def name_given(data: Given) -> str:
    """A name by which `load_cuts` finds the recordings in this process; the same recordings have the same name."""
    fingerprint = getattr(data, "_fingerprint", None) or _digest(data)
    name = f"{PREFIX}{fingerprint[:12]}"
    _known[name] = data
    return name


def find_given(name: str) -> Given:
    """The recordings of a name. Raises UserError where they were passed to another process."""
    if name not in _known:
        raise UserError(f"{name}: are recordings that were passed in Python; pass them again")
    return _known[name]


def _digest(rows: Sequence[Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        for field, value in sorted(row.items()):
            array = value.get("array") if isinstance(value, Mapping) else None
            content = repr(value).encode()
            if array is not None:
                content = np.asarray(array).tobytes() + repr(value.get("sampling_rate")).encode()
            digest.update(field.encode() + content)
    return digest.hexdigest()


def encoded(audio: Any, where: str, field: str) -> Union[Path, bytes]:
    """The audio of a row as a path or an encoded file. Raises UserError."""
    if isinstance(audio, (str, Path)):
        return Path(audio).expanduser()
    if isinstance(audio, bytes):
        return audio
    if isinstance(audio, Mapping) and "array" in audio and "sampling_rate" in audio:
        rate = audio["sampling_rate"]
        try:
            samples = waveform(audio, rate)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        file = io.BytesIO()
        soundfile.write(file, samples, int(rate), format="WAV", subtype="FLOAT")
        return file.getvalue()
    raise UserError(
        f"{where}: `{field}` must be a path or a dict of array and sampling_rate, not {type(audio).__name__}; "
        "give one, or name the field with data.audio_field"
    )
