"""Where transcripts go: standard output, or one file a recording, of which those that stand are not made again."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Union

from depthup import files
from depthup.errors import UserError
from depthup.transcribe.formats import FORMATS, SUFFIXES, summary
from depthup.transcribe.progress import progress_line
from depthup.transcribe.reading import Recording, expand, recordings_in
from depthup.transcribe.recordings import transcribe_recordings
from depthup.transcribe.transcript import Transcript

log = logging.getLogger("depthup")

Paths = Sequence[Union[str, Path]]
SEVERAL = ("text", "json")
"""Formats that hold several recordings at once."""


class Output(Protocol):
    """Takes transcripts."""

    def missing(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        """Those that it does not have yet."""

    def write(self, transcript: Transcript) -> None: ...

    def close(self) -> None: ...


def output_to(directory: Path | None, paths: Paths, format: str) -> Output:
    """Files in a directory, or without one standard output. Raises UserError where the format or a name forbids it."""
    return Printed(paths, format) if directory is None else Directory(directory, paths, format)


def transcribe_to(output: Output, model: Any, processor: Any, paths: Paths, options: dict[str, Any]) -> bool:
    """Transcribe files, folders and `-`, with a line of progress on a terminal; whether all could be read.

    `options` are fields of `Options`.
    """
    whole = True
    with progress_line(paths) as on_progress:
        recordings = output.missing(recordings_in(paths, processor.sampling_rate, options.get("channel", "mix")))
        for transcript in transcribe_recordings(model, processor, recordings, on_progress, **options):
            whole = whole and transcript.error is None
            output.write(transcript)
    output.close()
    return whole


class Printed:
    """Transcripts on standard output as they come; JSON, which holds all and the time they took, at the end."""

    def __init__(self, paths: Paths, format: str) -> None:
        self.several = len(paths) > 1 or Path(paths[0]).is_dir()
        self.format, self.began = format, time.perf_counter()
        self.kept: list[Transcript] = []
        if self.several and format not in SEVERAL:
            raise UserError(f"--format {format}: holds one recording; give --output DIR for several")

    def missing(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        yield from recordings

    def write(self, transcript: Transcript) -> None:
        if self.format == "json":
            self.kept.append(transcript)
        elif transcript.segments or transcript.error is None:
            several = self.several or transcript.channel is not None
            name = transcript.path if transcript.channel is None else f"{transcript.path} {transcript.channel}"
            sys.stdout.write(f"{name}: {transcript.text}\n" if several else FORMATS[self.format](transcript))
            sys.stdout.flush()

    def close(self) -> None:
        if self.format == "json":
            told = summary(self.kept, time.perf_counter() - self.began)
            print(json.dumps(told, ensure_ascii=False, indent=2), flush=True)


class Directory:
    """One file a recording, named like it, which stands whole or not at all; those that stand are not made again.

    Raises UserError where two recordings would have one file, or the directory cannot be made.
    """

    def __init__(self, directory: Path, paths: Paths, format: str) -> None:
        self.directory, self.format, self.done = directory, format, 0
        self.names = _names(paths)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{directory}: cannot be made ({error.strerror}); choose another --output") from error

    def missing(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        for recording in recordings:
            if self._file(recording.path, recording.channel).exists():
                self.done += 1
            else:
                yield recording

    def write(self, transcript: Transcript) -> None:
        """A recording that could not be read to its end gets no file, and is tried again the next time."""
        if transcript.error is None:
            file = self._file(transcript.path, transcript.channel)
            with files.disk_guard(self.directory):
                file.parent.mkdir(parents=True, exist_ok=True)
                files.clear(file.parent)
                files.write_text(file, FORMATS[self.format](transcript))

    def close(self) -> None:
        if self.done:
            told = "%s: %d recordings stood there already; remove a file to have it again"
            log.warning(told, self.directory, self.done)

    def _file(self, path: str, channel: int | None) -> Path:
        part = "" if channel is None else f".{channel}"
        return self.directory / f"{self.names[path]}{part}.{SUFFIXES.get(self.format, self.format)}"


def _names(paths: Paths) -> dict[str, str]:
    """For each recording the name of its file, without suffix: its place below the folder that was given.

    Its own suffix stays where the name would not tell it from another.
    """
    places: dict[str, Path] = {}
    for path in paths:
        for found in map(str, expand([path])):
            folder = Path(path) if Path(path).is_dir() else Path(path).parent
            places[found] = Path("standard-input") if found == "-" else Path(found).relative_to(folder)
    bare = Counter(place.with_suffix("") for place in places.values())
    names = {path: str(p if bare[p.with_suffix("")] > 1 else p.with_suffix("")) for path, p in places.items()}
    owners: dict[str, str] = {}
    for path, name in names.items():
        if (other := owners.setdefault(name, path)) != path:
            raise UserError(f"{other} and {path}: both would be {name}; give each its own --output")
    return names
