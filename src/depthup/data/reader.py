"""The one reader of recordings: any format, rate and channels in, mono blocks at one rate out, in constant memory."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Union

import numpy as np
import soxr

from depthup.data.decoders import Decoder, File, Undecodable, open_decoder
from depthup.errors import UserError

Source = Union[str, Path, bytes, BinaryIO]
"""A path, encoded bytes, or an open file or pipe."""
Channel = Union[Literal["mix", "left", "right"], int]
"""The mean of all channels, or one of them, which are numbered from 0."""

RATES = (1000, 1_000_000)
"""Hz between which a recording's own rate must lie; a damaged header would ask for endless samples."""
LOUDEST = 2.0**31
"""Largest sample; beyond it no program scales, and the squares of features overflow."""
CANCELS = 0.1
"""Channels cancel where their mean has less than this share of the energy that unrelated channels would leave it."""
CUT_SHORT = "is cut short"
"""Begins the note on a file that ends before it should."""
LEAST_CUT = 0.1
"""Seconds, and a hundredth of the whole, that a file may be shorter than it states: codecs count differently."""


class Sound(NamedTuple):
    """What a recording is made of: Hz, and how many channels."""

    rate: int
    channels: int


class BadAudio(UserError):
    """A clip that cannot be used: unreadable, empty, cut short, or with samples that are no sound."""


class AudioReader:
    """Blocks of mono float32 samples [samples] at `sampling_rate`, from second `start` on, at most `duration` seconds.

        reader = AudioReader("talk.m4a", 16000)
        for block in reader: ...            # once; a block holds at most some seconds
        reader.seconds, reader.notes        # what was read, and what a user should know of it

    No header is believed: the file is read to its end in blocks, so memory does not depend on its length. The mean of
    channels that cancel each other is silence; then the loudest one is taken.

    Raises BadAudio, here or while iterating, whose line begins with `name` (default: the path).
    """

    def __init__(
        self,
        source: Source,
        sampling_rate: int,
        start: float = 0.0,
        duration: float | None = None,
        channel: Channel = "mix",
        name: str | None = None,
    ) -> None:
        self.name = name or name_of(source)
        self.sampling_rate, self.start, self.duration, self.channel = sampling_rate, start, duration, channel
        self.seconds = 0.0
        self.notes: list[str] = []
        """One line each, without the name: cut short, damaged inside, channels that cancel, several tracks."""
        self.decoder = open_source(source, self.name)
        chosen = _index(channel)
        if chosen is not None and not 0 <= chosen < max(self.decoder.channels(), 1):
            self.close()
            raise BadAudio(f"{self.name}: has no channel {channel}, only {self.decoder.channels()}; choose another")
        if self.decoder.tracks > 1:
            self._note(f"has {self.decoder.tracks} sound tracks, of which the first is read")

    def close(self) -> None:
        self.decoder.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        resampler: soxr.ResampleStream | None = None
        at = 0
        try:
            for samples, rate in self._mono():
                if rate != at:
                    if resampler is not None:
                        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
                    resampler, at = self._resampler(rate), rate
                yield samples if resampler is None else resampler.resample_chunk(samples)
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        except Undecodable as error:
            raise BadAudio(f"{self.name}: cannot be read as audio ({error}); convert it to WAV or FLAC") from error
        finally:
            self.close()

    def _resampler(self, rate: int) -> soxr.ResampleStream | None:
        same = rate == self.sampling_rate
        return None if same else soxr.ResampleStream(rate, self.sampling_rate, 1, dtype="float32")

    def _mono(self) -> Iterator[tuple[np.ndarray, int]]:
        for samples, rate in self.decoder.blocks(self.start):
            if not RATES[0] <= rate <= RATES[1]:
                raise BadAudio(f"{self.name}: states a rate of {rate} Hz, which no recording has; convert it again")
            left = None if self.duration is None else round((self.duration - self.seconds) * rate)
            samples = samples[:left]
            self.seconds += len(samples) / rate
            self._check(samples)
            yield self._one_channel(samples), rate
            if left is not None and len(samples) >= left:
                break
        else:
            self._note_end()
        if self.decoder.lost:
            self._note(f"is damaged: {self.decoder.lost} pieces of it could not be decoded and are left out")

    def _check(self, samples: np.ndarray) -> None:
        if not np.isfinite(samples).all():
            raise BadAudio(f"{self.name}: has samples that are NaN or infinite; export it again or leave it out")
        if len(samples) and (peak := float(np.abs(samples).max())) > LOUDEST:
            raise BadAudio(f"{self.name}: is damaged: a sample of {peak:.0e} is no sound; export it again")

    def _one_channel(self, samples: np.ndarray) -> np.ndarray:
        """Mono [time] of samples [time, channels]."""
        if samples.shape[1] == 1:
            return np.ascontiguousarray(samples[:, 0])
        if (chosen := _index(self.channel)) is not None:
            return np.ascontiguousarray(samples[:, min(chosen, samples.shape[1] - 1)])
        mean = samples.mean(axis=1, dtype=np.float32)
        energies = np.square(samples, dtype=np.float64).sum(axis=0)
        if np.square(mean, dtype=np.float64).sum() >= CANCELS * energies.sum() / samples.shape[1] ** 2:
            return mean
        loudest = int(energies.argmax())
        self._note(f"has channels that cancel each other; the loudest is read, channel {loudest}")
        return np.ascontiguousarray(samples[:, loudest])

    def _note_end(self) -> None:
        """Said where the file ends before it should."""
        stated, read = self.decoder.stated(), self.start + self.seconds
        if stated is not None and read < stated - max(LEAST_CUT, stated / 100):
            self._note(f"{CUT_SHORT}: {read:.2f} s of the {stated:.2f} s that it states")
        elif not self.decoder.ends():
            self._note(f"{CUT_SHORT}: it has no end mark after its {read:.2f} s")

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


def read(
    source: Source,
    sampling_rate: int,
    start: float = 0.0,
    duration: float | None = None,
    channel: Channel = "mix",
    name: str | None = None,
) -> tuple[np.ndarray, list[str]]:
    """All samples that an `AudioReader` gives, in one array [samples], and its notes, which begin with the name.

    Takes the memory of its result and a constant. Raises BadAudio, also where there are no samples.
    """
    reader = AudioReader(source, sampling_rate, start, duration, channel, name)
    content = bytearray()  # grows in place
    for block in reader:
        content += block.tobytes()
    if not content:
        raise BadAudio(f"{reader.name}: has no samples{_from(start)}; remove it or record it again")
    return np.frombuffer(content, np.float32), [f"{reader.name}: {note}" for note in reader.notes]


def measure(source: Source, name: str | None = None) -> float:
    """Seconds of sound, by the header where that can be right, else by going through the file. Raises BadAudio."""
    name = name or name_of(source)
    decoder = open_source(source, name)
    try:
        return decoder.measured()
    finally:
        decoder.close()


def describe(source: Source, name: str | None = None) -> Sound:
    """Rate and channels of a recording, as its header says. Raises BadAudio."""
    decoder = open_source(source, name or name_of(source))
    try:
        return Sound(decoder.rate(), decoder.channels())
    finally:
        decoder.close()


def open_source(source: Source, name: str) -> Decoder:
    """A decoder of the source's sound. Raises BadAudio."""
    try:
        return open_decoder(_movable(source, name))
    except Undecodable as error:
        raise BadAudio(f"{name}: cannot be read as audio ({error}); convert it to WAV or FLAC") from error
    except OSError as error:
        raise BadAudio(f"{name}: cannot be opened ({error.strerror or error}); mend that or leave it out") from error


def name_of(source: Source) -> str:
    """What errors call a source: a path, also one that is no text."""
    if isinstance(source, (str, Path)):
        return str(source).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "standard input" if getattr(source, "name", "") == "<stdin>" else "audio"


def _movable(source: Source, name: str) -> File:
    """A file that can be moved about in: what comes through a pipe is copied to the disk first."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.exists():
            raise BadAudio(f"{name}: no such audio file; correct the path or leave the clip out")
        if path.is_dir():
            raise BadAudio(f"{name}: is a folder, not a recording; name the files in it")
        if path.is_file():
            if not path.stat().st_size:
                raise BadAudio(f"{name}: is empty, it has 0 bytes; copy it again or leave it out")
            return path
        with path.open("rb") as pipe:
            return _movable(pipe, name)
    if isinstance(source, tempfile.SpooledTemporaryFile) and not hasattr(source, "seekable"):
        source = source._file  # type: ignore[assignment]  # an upload under Python 3.10, whose class lacks the method
    if source.seekable():
        return source
    copy = tempfile.TemporaryFile(prefix="depthup-")  # noqa: SIM115  # closed with the decoder's last reference
    shutil.copyfileobj(source, copy)
    return copy  # type: ignore[return-value]  # a wrapper of one on some systems


def _index(channel: Channel) -> int | None:
    return {"mix": None, "left": 0, "right": 1}[channel] if isinstance(channel, str) else channel


def _from(start: float) -> str:
    return f" from second {start:.2f} on" if start else ""
