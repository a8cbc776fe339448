"""Cuts of one clip each, and their samples."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any, Union

import numpy as np
import soxr
from lhotse import MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from lhotse.cut.data import DataCut

from depthup.data.reader import CUT_SHORT, BadAudio, Channel, Source, measure, name_of, read

log = logging.getLogger("depthup")

MOST_MISSING = 0.1
"""Share of a clip that a file may lack or hold too much (rounding, codecs); then the text is another's."""
NOMINAL_RATE = 16000
"""Stands in recordings made here, whose true rate and channels are seen only when the file is read."""
MIX = -1
"""Channel of a cut made here that is the mean of all."""
LINES = 10_000
"""Lines about clips that a process remembers, so as not to say the same in every epoch."""


class AnyAudio(AudioSource):
    """A file or bytes whose rate and channels are seen when it is read, by our reader.

    So cuts made here work in Lhotse too (`cut.load_audio()`, `cuts.to_shar(...)`), at `NOMINAL_RATE`.
    """

    def load_audio(
        self, offset: float = 0.0, duration: float | None = None, force_opus_sampling_rate: int | None = None
    ) -> np.ndarray:
        """float32 [channels, samples], `MIX` being the mean of all. Raises BadAudio."""
        source: Source = self.source  # type: ignore[assignment]
        chosen: list[Channel] = ["mix" if channel == MIX else channel for channel in self.channels]
        return np.stack([read(source, NOMINAL_RATE, offset, duration, channel)[0] for channel in chosen])


def make_cut(
    cut_id: str,
    audio: Union[Path, bytes],
    text: str,
    start: float,
    duration: float,
    speaker: str | None = None,
    language: str | None = None,
    custom: dict[str, Any] | None = None,
    channel: int = MIX,
    whole: bool = False,
) -> MonoCut:
    """A cut of `duration` seconds from second `start` of a file or of encoded bytes, without reading the audio.

    Its recording lists no samples where the cut is the `whole` file and `duration` the file's own word.
    """
    channels = [MIX] if channel == MIX else list(range(channel + 1))
    kind, content = ("memory", audio) if isinstance(audio, bytes) else ("file", str(audio))
    recording = Recording(
        id=cut_id,
        sources=[AnyAudio(type=kind, channels=channels, source=content)],
        sampling_rate=NOMINAL_RATE,
        num_samples=0 if whole else round((start + duration) * NOMINAL_RATE),
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
        id=cut_id, start=start, duration=duration, channel=channel, recording=recording, supervisions=[supervision]
    )


def audio_duration(audio: Union[Path, bytes]) -> float | None:
    """Seconds of audio in a file; None where it cannot be read or is empty, which reading it will say."""
    try:
        return measure(audio) or None
    except BadAudio:
        return None


def audio_file(cut: Cut) -> Path | None:
    """The file a cut is read from; None where it holds its bytes, or is mixed from several."""
    source = _first_source(cut)
    return Path(str(source.source)) if source and source.type == "file" else None


def read_audio(cut: Cut, sampling_rate: int) -> np.ndarray:
    """The cut's samples: mono float32 [samples] at `sampling_rate`, of all channels unless the cut names one.

    What a user should know of a clip that can be used is logged in one line, once. Raises `BadAudio`, naming the file,
    where the clip is unreadable, empty, cut short, longer than its header states, or has samples that are no sound.
    """
    name = name_of(audio_file(cut) or cut.id)
    if not cut.has_recording:
        raise BadAudio(f"{name}: the cut has no recording; leave it out of the manifest")
    if cut.duration <= 0:
        raise BadAudio(f"{name}: the clip has zero duration; leave it out of the manifest")
    if not isinstance(cut, DataCut) or (source := _readable(cut)) is None:
        return _read_with_lhotse(cut, name, sampling_rate)
    known = cut.recording
    # Not a part that was cut out of it later.
    whole = known is not None and not known.num_samples and cut.end >= known.duration - 1 / sampling_rate
    most = (1 + MOST_MISSING) * cut.duration + MOST_MISSING
    duration = 2 * most if whole else cut.duration
    samples, notes = read(source, sampling_rate, cut.start, duration, _channel(cut), name)
    seconds = len(samples) / sampling_rate
    if seconds < (1 - MOST_MISSING) * cut.duration - 1 / sampling_rate:
        raise BadAudio(
            f"{name}: {seconds:.2f} s of audio where {cut.duration:.2f} s are expected from second "
            f"{cut.start:.2f}; correct the manifest or the file"
        )
    if whole and seconds > most:
        raise BadAudio(f"{name}: has more than the {cut.duration:.2f} s that its header states; convert it again")
    for note in notes:
        if whole and note.startswith(f"{name}: {CUT_SHORT}"):
            raise BadAudio(f"{note}; its text says more; copy it again or leave it out")
        say_once(note)
    return samples


@lru_cache(maxsize=LINES)
def say_once(line: str) -> None:
    """To the log, unless this process has said it before."""
    log.warning("%s", line)


def _first_source(cut: Cut) -> AudioSource | None:
    return cut.recording.sources[0] if isinstance(cut, DataCut) and cut.recording else None


def _readable(cut: DataCut) -> Source | None:
    """What a cut is read from if it is a stretch of one file or of bytes; None where Lhotse must put it together."""
    recording = cut.recording
    if recording is None or len(recording.sources) != 1 or recording.transforms:
        return None
    if isinstance(cut, MultiCut) and cut.num_channels != recording.num_channels:
        return None
    (source,) = recording.sources
    return source.source if source.type in ("file", "memory") else None


def _channel(cut: Cut) -> Channel:
    if not isinstance(cut, MonoCut) or cut.channel == MIX:
        return "mix"
    source = _first_source(cut)
    held = source.channels if source else []  # a file of Lhotse's Shar may hold the second channel alone
    return held.index(cut.channel) if cut.channel in held else cut.channel


def _read_with_lhotse(cut: Cut, name: str, sampling_rate: int) -> np.ndarray:
    """Samples of any other Lhotse cut (several sources, transforms, mixes); the mean of its channels."""
    try:
        samples = np.atleast_2d(cut.load_audio()).mean(axis=0, dtype=np.float32)
    except Exception as error:  # Lhotse's many readers share no exception type.
        raise BadAudio(f"{name}: cannot be read as audio ({_one_line(error)})") from error
    if not len(samples) or not np.isfinite(samples).all():
        raise BadAudio(f"{name}: has no samples, or some that are NaN or infinite; leave it out of the manifest")
    rate = cut.sampling_rate
    return soxr.resample(samples, rate, sampling_rate) if rate != sampling_rate else samples


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
