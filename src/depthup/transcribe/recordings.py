"""Recordings in, transcripts out: long ones cut, many of them in batches, in the order given."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Union

import numpy as np

from depthup.errors import UserError
from depthup.transcribe.batches import ahead, in_groups, transcribe_batch
from depthup.transcribe.options import Options, default_batch_seconds
from depthup.transcribe.reading import expand, read
from depthup.transcribe.segments import split_long
from depthup.transcribe.transcript import Segment, Transcript

log = logging.getLogger("depthup")


def transcribe_files(
    model: Any, processor: Any, paths: Iterable[Union[str, Path]], **options: Any
) -> Iterator[Transcript]:
    """Transcribe files, folders (every recording below, sorted) and `-` (a recording on standard input).

    Gives their transcripts in order, as they are ready. A recording that cannot be read is logged as one line, which
    stands in its transcript's `error`; the others go on. `options` are fields of `Options`.
    """
    begun = (_begin(path, processor.sampling_rate) for path in expand(paths))
    yield from _transcribe(model, processor, begun, Options(**options))


def transcribe_recordings(
    model: Any, processor: Any, recordings: Iterable[np.ndarray], **options: Any
) -> Iterator[Transcript]:
    """Transcribe recordings [samples] of any length at the processor's rate; `options` are fields of `Options`.

    Gives their transcripts in order, as they are ready, with the segments that hold text. A transcript's path is the
    recording's number.
    """
    rate = processor.sampling_rate
    begun = (
        (Transcript(str(n), duration=round(len(samples) / rate, 3)), samples) for n, samples in enumerate(recordings)
    )
    yield from _transcribe(model, processor, begun, Options(**options))


Begun = tuple[Transcript, Union[np.ndarray, None]]
"""A transcript without text yet, and the samples, unless there is an error instead."""


def _begin(path: Union[str, Path], sampling_rate: int) -> Begun:
    transcript = Transcript(str(path))
    try:
        samples = read(path, sampling_rate)
    except UserError as error:
        transcript.error = str(error)
        log.error("%s", error)
        return transcript, None
    transcript.duration = round(len(samples) / sampling_rate, 3)
    return transcript, samples


def _transcribe(model: Any, processor: Any, begun: Iterable[Begun], options: Options) -> Iterator[Transcript]:
    """The same with their text.

    Recordings are read and dropped in groups of a few batches, so that thousands of them need no more memory, and the
    next group is read while one is heard.
    """
    seconds = options.batch_seconds or default_batch_seconds(model)
    for group in ahead(in_groups(begun, lambda one: one[0].duration, seconds)):
        heard = [(transcript, samples) for transcript, samples in group if samples is not None]
        found = _hear_all(model, processor, [samples for _, samples in heard], options)
        for (transcript, _), segments in zip(heard, found, strict=True):
            if options.instruction and len(segments) > 1:
                log.warning("%s: heard in %d pieces, each answered by itself", transcript.path, len(segments))
            transcript.segments = segments
            transcript.text = " ".join(segment.text for segment in segments)
        yield from (transcript for transcript, _ in group)


def _hear_all(model: Any, processor: Any, recordings: list[np.ndarray], options: Options) -> list[list[Segment]]:
    """The segments with text of each recording, all pieces of all recordings in common batches."""
    rate = processor.sampling_rate
    spans = [
        (n, *span) for n, samples in enumerate(recordings) for span in split_long(samples, rate, options.max_seconds)
    ]
    pieces = [recordings[n][start:end] for n, start, end in spans]
    segments: list[list[Segment]] = [[] for _ in recordings]
    for (n, start, _), segment in zip(spans, transcribe_batch(model, processor, pieces, **vars(options)), strict=True):
        if segment.text:
            segments[n].append(segment.later(start / rate))
    return segments
