"""Sound files of any format as blocks of samples: soundfile where it is exact, PyAV (FFmpeg) for everything else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Protocol, Union

import av
import numpy as np
import soundfile

File = Union[Path, BinaryIO]
"""A file by its path, or one that is open and can be moved about in."""
Block = tuple[np.ndarray, int]
"""Samples [time, channels] in float32, and their rate in Hz."""

BLOCK = 1 << 20
"""Samples of all channels together that are decoded at a time."""
UNCOMPRESSED = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b".snd", b"dns.", b"caff")
"""First bytes of what libsndfile reads to the last sample whatever the header's counts say: WAV, W64, AIFF, AU, CAF."""
SUFFIXES = (
    ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".avi", ".caf", ".dts", ".flac", ".flv",
    ".gsm", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg", ".oga", ".ogg",
    ".ogv", ".opus", ".snd", ".spx", ".tta", ".voc", ".w64", ".wav", ".webm", ".wma", ".wmv", ".wv",
)  # fmt: skip
"""What counts as a recording in a folder; a file that is named may have any name."""
FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,loas,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,"
    "mpegts,mpegvideo,ogg,sln,spx,tta,voc,w64,wav,wv"
)
"""Of FFmpeg's formats those that hold sound by themselves: a playlist would make it open other files and addresses."""
COUNTED = ("flac", "mov", "caf", "tta", "wav", "asf")
"""Formats whose length stands in the file; of others FFmpeg gives a guess from the bit rate."""
LEAST_BYTES = 50
"""Of a second of sound, however quiet and well compressed; a header that promises more is wrong."""
OGG_PAGE = 65_307
"""Most bytes of a page of Ogg, whose last one is marked."""
PREROLL = 1.0
"""Seconds that are decoded before the first one wanted, since codecs need some to come to rest."""
SHORT = 20.0
"""Seconds below which the frames that a codec drops at its ends would matter: such a file is decoded to be measured."""


class Undecodable(Exception):
    """Why a file is no sound that can be decoded, in a few words."""


class Decoder(Protocol):
    """An open sound file. `blocks` may be asked for once."""

    lost: int
    """Pieces that could not be decoded so far."""
    tracks: int

    def rate(self) -> int: ...

    def channels(self) -> int: ...

    def blocks(self, start: float) -> Iterator[Block]:
        """From second `start` to the true end, `BLOCK` samples at a time. Raises `Undecodable`."""

    def stated(self) -> float | None:
        """Seconds by the file's own word, if it gives one that can be held against what is there."""

    def ends(self) -> bool:
        """Whether the file has an end mark, where its format demands one."""

    def measured(self) -> float:
        """Seconds to plan with, decoding as little as possible; after it there are no `blocks`."""

    def close(self) -> None: ...


def open_decoder(file: File) -> Decoder:
    """Raises `Undecodable`, and OSError where the file itself cannot be read."""
    kinds: list[type[SoundfileDecoder] | type[AvDecoder]] = [AvDecoder, SoundfileDecoder]
    if first_bytes(file).startswith(UNCOMPRESSED):
        kinds.reverse()
    reasons = []
    for kind in kinds:
        if not isinstance(file, Path):
            file.seek(0)
        try:
            return kind(file)
        except Undecodable as error:
            reasons.append(str(error))
    raise Undecodable(reasons[0])


def first_bytes(file: File, count: int = 12) -> bytes:
    """The beginning of a file, which stays where it is."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return stream.read(count)
    file.seek(0)
    found = file.read(count)
    file.seek(0)
    return found


class SoundfileDecoder:
    """By libsndfile."""

    lost, tracks = 0, 1

    def __init__(self, file: File) -> None:
        try:
            # As bytes, since a name need not be text.
            self.file = soundfile.SoundFile(os.fsencode(file) if isinstance(file, Path) else file)  # type: ignore[arg-type]
        except (soundfile.LibsndfileError, TypeError) as error:
            raise Undecodable(_reason(error)) from error
        if not self.file.frames:  # some programs leave the size 0 when they write to a pipe
            self.file.close()
            raise Undecodable("it has no samples")

    def rate(self) -> int:
        return self.file.samplerate

    def channels(self) -> int:
        return self.file.channels

    def blocks(self, start: float) -> Iterator[Block]:
        rate, size = self.file.samplerate, max(1, BLOCK // self.file.channels)
        left_out = min(round(start * rate), self.file.frames)
        try:
            if self.file.seekable():
                self.file.seek(left_out)
            while not self.file.seekable() and left_out:  # GSM 6.10 is read from its beginning alone
                left_out -= len(self.file.read(min(size, left_out), dtype="float32", always_2d=True)) or left_out
            while len(block := self.file.read(size, dtype="float32", always_2d=True)):
                yield block, rate
        except soundfile.LibsndfileError:
            self.lost += 1

    def stated(self) -> float | None:
        sizes = re.findall(r"(\d+) \(should be (\d+)\)", self.file.extra_info)
        said, there = map(int, sizes[-1]) if sizes else (0, 1)
        # What is written to a pipe states the largest size there is, or nearly.
        return self.measured() * said / there if there and there < said < 0x7FF00000 else None

    def ends(self) -> bool:
        return True

    def measured(self) -> float:
        return self.file.frames / self.file.samplerate

    def close(self) -> None:
        self.file.close()


class _Places:
    """A file that tells FFmpeg by -1 where it cannot go; an exception PyAV would print, and go on."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.read, self.tell, self.seekable = file, file.read, file.tell, file.seekable
        self.name = getattr(file, "name", "<none>")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return -1


class AvDecoder:
    """By FFmpeg."""

    def __init__(self, file: File) -> None:
        self.file = file.open("rb") if isinstance(file, Path) else file
        self.mine = isinstance(file, Path)
        self.lost = 0
        try:
            # Tags need not be text either.
            self.container: av.container.InputContainer = av.open(
                _Places(self.file), "r", options={"format_whitelist": FORMATS}, metadata_errors="replace"
            )
            self.tracks = len(self.container.streams.audio)
            if not self.tracks:
                raise Undecodable("it holds no sound")
            self.stream = self.container.streams.audio[0]
            if not self.stream.codec_context:
                raise Undecodable("its codec is not known")
        except (av.FFmpegError, ValueError, Undecodable) as error:
            self._close_file()
            raise error if isinstance(error, Undecodable) else Undecodable(_reason(error)) from error

    def rate(self) -> int:
        return self.stream.codec_context.sample_rate

    def channels(self) -> int:
        return self.stream.codec_context.layout.nb_channels

    def blocks(self, start: float) -> Iterator[Block]:
        waiting: list[np.ndarray] = []
        held, shape = 0, (0, 0)
        for samples, rate in self._from(start):
            if waiting and (shape != (samples.shape[1], rate) or held >= BLOCK):
                yield np.concatenate(waiting), shape[1]
                waiting, held = [], 0
            waiting.append(samples)
            held, shape = held + samples.size, (samples.shape[1], rate)
        if waiting:
            yield np.concatenate(waiting), shape[1]

    def stated(self) -> float | None:
        name, seconds = self.container.format.name, self._seconds()
        if name == "caf" and self.stream.codec_context.name.startswith("pcm"):
            return self.stream.frames / self.rate()  # FFmpeg's duration is what is left
        counted = name.startswith(COUNTED) or (name == "mp3" and self._counts_frames())
        return seconds if counted and self._is_possible(seconds) else None

    def ends(self) -> bool:
        if self.container.format.name != "ogg":
            return True
        self.file.seek(max(0, self.file.seek(0, os.SEEK_END) - OGG_PAGE))
        tail = self.file.read()
        last = tail.rfind(b"OggS")
        return last < 0 or len(tail) < last + 6 or bool(tail[last + 5] & 4)

    def measured(self) -> float:
        name, seconds = self.container.format.name, self._seconds()
        if name.startswith((*COUNTED, "ogg")) and seconds and self._is_possible(seconds):
            return seconds
        base = self.stream.time_base or 0
        seconds = float(sum(packet.duration or 0 for packet in self._packets()) * base)
        if seconds >= SHORT:
            return seconds
        try:
            self.container.seek(0)
        except av.FFmpegError:
            return seconds
        return sum(len(block) / rate for block, rate in self.blocks(0.0))

    def close(self) -> None:
        self.container.close()
        self._close_file()

    def _close_file(self) -> None:
        if self.mine:
            self.file.close()

    def _seconds(self) -> float | None:
        length, base = self.stream.duration, self.stream.time_base
        return float(length * base) if length and base and length > 0 else None

    def _is_possible(self, seconds: float | None) -> bool:
        return seconds is None or seconds * LEAST_BYTES <= self.file.seek(0, os.SEEK_END)

    def _counts_frames(self) -> bool:
        """Whether an MP3 begins with a frame that states how many follow."""
        head = first_bytes(self.file, 10)
        tag = sum(byte << 7 * (3 - i) for i, byte in enumerate(head[6:10])) + 10 if head[:3] == b"ID3" else 0
        self.file.seek(tag)
        begin = self.file.read(256)
        return b"Xing" in begin or b"Info" in begin

    def _from(self, start: float) -> Iterator[Block]:
        """Frame by frame, those before second `start` left out."""
        frames = self._frames()
        if (first := next(frames, None)) is None:
            return
        # Times are counted from the first frame, whatever the file calls its own beginning.
        base, origin, passed = self.stream.time_base or 1, first.pts, 0.0
        ahead = [first]
        if start > PREROLL and origin is not None:
            try:
                self.container.seek(origin + int((start - PREROLL) / base), stream=self.stream)
                ahead = [frame for frame in [next(frames, None)] if frame is not None]
                passed = float(((ahead[0].pts or 0) - origin) * base) if ahead else 0.0
            except av.FFmpegError:  # then from the beginning
                self._rewind()
                ahead, passed = [], 0.0
        for frame in chain(ahead, frames):
            samples, rate = _as_float(frame), frame.sample_rate
            early = min(max(0, round((start - passed) * rate)), len(samples))
            passed += len(samples) / rate
            if early < len(samples):
                yield samples[early:], rate

    def _rewind(self) -> None:
        try:
            self.container.seek(0)
        except av.FFmpegError as error:
            raise Undecodable(f"no place in it can be found: {_reason(error)}") from error

    def _packets(self) -> Iterator[av.Packet]:
        try:
            yield from self.container.demux(self.stream)
        except (av.FFmpegError, ValueError):
            self.lost += 1

    def _frames(self) -> Iterator[av.AudioFrame]:
        for packet in self._packets():
            try:
                yield from packet.decode()  # type: ignore[misc]  # of sound, since the stream is
            except (av.FFmpegError, ValueError):
                self.lost += 1


def _as_float(frame: av.AudioFrame) -> np.ndarray:
    """Samples [time, channels] of a frame, full scale 1."""
    samples = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32)


def _reason(error: Exception) -> str:
    if isinstance(error, (av.InvalidDataError, av.EOFError)):
        return "in no format that is known, or damaged"
    text = str(getattr(error, "strerror", None) or error).rpartition(": ")[2].strip().rstrip(".")
    return (text.splitlines() or [type(error).__name__])[0][:200]
