"""Cuts of one clip each, and their samples."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Union

import numpy as np
import soundfile
import soxr
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from lhotse.cut.data import DataCut

from depthup.errors import UserError

# A file may end a little before its manifest says (rounding, codecs); a file cut short may not.
MOST_MISSING = 0.1
# Stands in recordings made here, whose true rate and channels are seen only when the file is read.
NOMINAL_RATE = 16000


class BadAudio(UserError):
    """A clip that cannot be used: unreadable, empty, cut short, or with NaN or infinite samples."""


def make_cut(
    cut_id: str,
    audio: Union[Path, bytes],
    text: str,
    start: float,
    duration: float,
    speaker: str | None = None,
    language: str | None = None,
    custom: dict[str, Any] | None = None,
) -> MonoCut:
    """A cut of `duration` seconds from second `start` of a file or of encoded bytes, without reading the audio.

    Its recording lists no channels, by which `read_audio` knows that rate and channels come from the file.
    """
    kind, content = ("memory", audio) if isinstance(audio, bytes) else ("file", str(audio))
    recording = Recording(
        id=cut_id,
        sources=[AudioSource(type=kind, channels=[], source=content)],
        sampling_rate=NOMINAL_RATE,
        num_samples=round((start + duration) * NOMINAL_RATE),
        duration=start + duration,
    )
    supervision = SupervisionSegment(
        id=cut_id,
        recording_id=cut_id,
        start=0.0,
        duration=duration,
        text=text,
        speaker=speaker,
        language=language,
        custom=custom or None,
    )
    return MonoCut(
        id=cut_id, start=start, duration=duration, channel=0, recording=recording, supervisions=[supervision]
    )


def header_duration(audio: Union[Path, bytes]) -> float | None:
    """Seconds of audio by the file's header; None where it cannot be read or says that the file is empty."""
    try:
        return soundfile.info(io.BytesIO(audio) if isinstance(audio, bytes) else audio).duration or None
    except (OSError, soundfile.LibsndfileError):
        return None


def audio_file(cut: Cut) -> Path | None:
    """The file a cut is read from; None where it holds its bytes, or is mixed from several."""
    source = _first_source(cut)
    return Path(str(source.source)) if source and source.type == "file" else None


def read_audio(cut: Cut, sampling_rate: int) -> np.ndarray:
    """The cut's samples: mono (mean of its channels) float32 [samples] at `sampling_rate`.

    Raises `BadAudio`, naming the file, where the clip is unreadable, empty, cut short, or has NaN or infinite samples.
    """
    name = str(audio_file(cut) or cut.id)
    if not cut.has_recording:
        raise BadAudio(f"{name}: the cut has no recording; leave it out of the manifest")
    if cut.duration <= 0:
        raise BadAudio(f"{name}: the clip has zero duration; leave it out of the manifest")
    source = _first_source(cut)
    if source and not source.channels:
        samples, rate = _read_span(source, cut.start, cut.duration, name)
    else:
        samples, rate = _read_with_lhotse(cut, name)
    if len(samples) < (1 - MOST_MISSING) * cut.duration * rate or not len(samples):
        raise BadAudio(
            f"{name}: {len(samples) / rate:.2f} s of audio where {cut.duration:.2f} s are expected from second "
            f"{getattr(cut, 'start', 0):.2f}; correct the manifest or the file"
        )
    samples = samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise BadAudio(f"{name}: the audio has NaN or infinite samples; convert it again or leave it out")
    return soxr.resample(samples, rate, sampling_rate) if rate != sampling_rate else samples


def _first_source(cut: Cut) -> AudioSource | None:
    return cut.recording.sources[0] if isinstance(cut, DataCut) and cut.recording else None


def _read_span(source: AudioSource, start: float, duration: float, name: str) -> tuple[np.ndarray, int]:
    """Samples [time, channels] from second `start` on, at most `duration` seconds, and the file's rate."""
    content = source.source
    if isinstance(content, str) and not Path(content).is_file():
        raise BadAudio(f"{name}: no such audio file; correct the path or leave the clip out of the manifest")
    try:
        with soundfile.SoundFile(io.BytesIO(content) if isinstance(content, bytes) else content) as file:
            if not file.frames:
                raise BadAudio(f"{name}: the audio file is empty; leave it out of the manifest")
            file.seek(min(round(start * file.samplerate), file.frames))
            samples = file.read(round(duration * file.samplerate), dtype="float32", always_2d=True)
            return samples, file.samplerate
    except (OSError, soundfile.LibsndfileError) as error:
        raise BadAudio(f"{name}: cannot read the audio ({_one_line(error)}); convert it, e.g. to FLAC") from error


def _read_with_lhotse(cut: Cut, name: str) -> tuple[np.ndarray, int]:
    """Samples [time, channels] of any other Lhotse cut (several sources, transforms, mixes), and their rate."""
    try:
        return np.atleast_2d(cut.load_audio()).T, cut.sampling_rate
    except Exception as error:  # Lhotse's many readers share no exception type.
        raise BadAudio(f"{name}: cannot read the audio ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
