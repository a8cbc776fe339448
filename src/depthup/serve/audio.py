"""What clients send as audio, in pieces that the model hears, within limits and never whole in memory."""

from __future__ import annotations

import base64
import binascii
import io
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, BinaryIO, Optional

import anyio
import numpy as np

from depthup.data.reader import AudioReader
from depthup.errors import UserError
from depthup.serve.errors import ApiError
from depthup.transcribe.options import MAX_SECONDS
from depthup.transcribe.segments import Piece, pieces
from depthup.transcribe.voice import Vad, detector

log = logging.getLogger("depthup")

THREADS = 2
"""Recordings that are decoded at a time, and microphones that are listened to; more would take the model's time."""
NAME = "file"
"""What error lines call an upload: neither the client's name for it nor ours."""


class AudioIntake:
    """Decodes uploads in a few threads of its own."""

    def __init__(self, sampling_rate: int, max_seconds: float, vad: Vad = "auto") -> None:
        self.sampling_rate, self.max_seconds, self.vad = sampling_rate, max_seconds, vad
        self._threads, self._live = anyio.CapacityLimiter(THREADS), anyio.CapacityLimiter(THREADS)

    def recording(self, file: BinaryIO, vad: Optional[Vad] = None) -> Recording:
        """An upload, in which `vad` finds speech."""
        return Recording(self, file, vad or self.vad)

    async def run(self, call: Any, *arguments: Any, live: bool = False) -> Any:
        """A blocking call's result, in one of the threads; what is `live` does not wait behind uploads."""
        return await anyio.to_thread.run_sync(call, *arguments, limiter=self._live if live else self._threads)


class Recording:
    """One upload: `pieces` reads it to its end, and `seconds` says how much that has been so far."""

    def __init__(self, intake: AudioIntake, file: BinaryIO, vad: Vad) -> None:
        self._intake, self._file, self._vad = intake, file, vad
        self.seconds = 0.0
        self.stopped = False

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces of at most 28 s, cut in pauses. Raises ApiError where it is no audio, or too much of it."""
        found = self._pieces()
        try:
            while (piece := await self._intake.run(_following, found)) is not None:
                yield piece
        finally:
            self.stopped = True
            self._file.close()

    def _pieces(self) -> Iterator[Piece]:
        rate = self._intake.sampling_rate
        try:
            yield from pieces(self._blocks(), rate, MAX_SECONDS, detector(self._vad, rate))
        except UserError as error:
            raise ApiError(400, str(error), NAME, "invalid_audio") from error

    def _blocks(self) -> Iterator[np.ndarray]:
        for block in AudioReader(self._file, self._intake.sampling_rate, name=NAME):
            if self.stopped:
                return
            self.seconds += len(block) / self._intake.sampling_rate
            if self.seconds > self._intake.max_seconds:
                most = f"{self._intake.max_seconds:g} s"
                raise ApiError(413, f"{NAME}: is longer than {most}; send it in parts", NAME, "audio_too_long")
            yield block
        if not self.seconds:
            raise ApiError(400, f"{NAME}: has no samples; record it again", NAME, "invalid_audio")


def _following(found: Iterator[Piece]) -> Optional[Piece]:
    return next(found, None)


def from_base64(data: str, param: str) -> BinaryIO:
    """The bytes of an `input_audio`, also as a data URL. Raises ApiError."""
    try:
        content = base64.b64decode(data.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{param}: is not base64", param, "invalid_audio") from error
    return io.BytesIO(content)
