"""Recordings in, transcripts out: cut into pieces, heard in batches, put together again in the order given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from depthup.errors import UserError
from depthup.transcribe.batches import ahead, in_groups
from depthup.transcribe.hearing import hear, refuse_what_cannot_act
from depthup.transcribe.joining import join
from depthup.transcribe.options import Options, default_batch_seconds
from depthup.transcribe.reading import Recording, recordings_in
from depthup.transcribe.segments import Piece, pieces
from depthup.transcribe.transcript import Transcript
from depthup.transcribe.voice import detector

log = logging.getLogger("depthup")

Progress = Callable[[float], None]
"""Is told how many more seconds of audio are done, silence included."""
LEAST_WEIGHT = 0.1
"""Seconds that a recording counts in a group even if there is nothing to hear in it."""


def transcribe_files(
    model: Any,
    processor: Any,
    paths: Iterable[Union[str, Path]],
    on_progress: Optional[Progress] = None,
    **options: Any,
) -> Iterator[Transcript]:
    """Transcribe files, folders (every recording below, sorted) and `-` (a recording on standard input).

    As `transcribe_recordings`. A recording that cannot be read is logged as one line, which stands in its transcript's
    `error`; the others go on. With the option `channel` "each" channels are recordings of their own.
    """
    chosen = Options(**options)
    found = recordings_in(paths, processor.sampling_rate, chosen.channel)
    yield from _transcribe(model, processor, found, chosen, on_progress)


def transcribe_recordings(
    model: Any,
    processor: Any,
    recordings: Iterable[Union[np.ndarray, Recording]],
    on_progress: Optional[Progress] = None,
    **options: Any,
) -> Iterator[Transcript]:
    """Transcribe recordings of any length: samples [samples] at the processor's rate, or blocks of them with a name.

    Gives their transcripts in order, as they are ready, with the segments that hold text. Recordings are read and
    dropped piece by piece, so that hours or thousands of them need no more memory, and the next pieces are read while
    those before them are heard. `options` are fields of `Options`.
    """
    named = (r if isinstance(r, Recording) else Recording(str(n), [r]) for n, r in enumerate(recordings))
    yield from _transcribe(model, processor, named, Options(**options), on_progress)


@dataclass
class _Step:
    """A piece of a recording, or with None the end of it, and the seconds read since the step before."""

    transcript: Transcript
    piece: Optional[Piece]
    seconds: float


def _transcribe(
    model: Any, processor: Any, recordings: Iterable[Recording], options: Options, on_progress: Optional[Progress]
) -> Iterator[Transcript]:
    refuse_what_cannot_act(model, processor, options)  # before hours are read in which nobody may speak
    rate = processor.sampling_rate
    language = options.language or processor.language
    steps = (step for recording in recordings for step in _steps(recording, rate, language, options))
    seconds = options.batch_seconds or default_batch_seconds(model)
    for group in ahead(in_groups(steps, lambda step: _weight(step, rate), seconds)):
        at = [i for i, step in enumerate(group) if step.piece is not None]
        audio = [step.piece.samples for step in group if step.piece is not None]
        found = {}
        for n, segment in hear(model, processor, audio, options):
            found[at[n]] = segment
            if on_progress is not None:
                on_progress(group[at[n]].seconds)
        for i, step in enumerate(group):
            if step.piece is not None:
                shared = 0.0 if options.asks else step.piece.shared / rate
                join(step.transcript.segments, found[i].later(step.piece.start / rate), shared)
                continue
            if on_progress is not None:
                on_progress(step.seconds)
            if options.asks and len(step.transcript.segments) > 1:
                pieces_heard = len(step.transcript.segments)
                log.warning("%s: heard in %d pieces, each answered by itself", step.transcript.path, pieces_heard)
            step.transcript.text = " ".join(segment.text for segment in step.transcript.segments)
            yield step.transcript


def _weight(step: _Step, rate: int) -> float:
    return len(step.piece.samples) / rate if step.piece is not None else LEAST_WEIGHT


def _steps(recording: Recording, rate: int, language: Optional[str], options: Options) -> Iterator[_Step]:
    transcript = Transcript(recording.path, language=language, channel=recording.channel)
    read, told = 0, 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal read
        for block in recording.blocks:
            read += len(block)
            yield block

    # What is asked is about all that was said, so that nothing is cut that can be heard at once.
    detect = None if options.asks else detector(options.vad, rate)
    try:
        for piece in pieces(counted(), rate, options.max_seconds, detect):
            yield _Step(transcript, piece, (piece.end - told) / rate)
            told = piece.end
    except UserError as error:  # what was heard before it stays
        transcript.error = str(error)
        log.error("%s", error)
    transcript.duration = round(read / rate, 3)
    yield _Step(transcript, None, (read - told) / rate)
