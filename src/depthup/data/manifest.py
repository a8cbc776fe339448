"""The rows of manifests and tables, and the fields that say which stretch of which file a row means."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthup.config import DataConfig
from depthup.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv")
NEMO_AUDIO = "audio_filepath"
STARTS, ENDS, DURATIONS = ("start", "start_time", "offset"), ("end", "end_time"), ("duration",)
"""Names of the fields with times in seconds: ours, Kaldi's and NeMo's."""
CHANNEL_FIELDS = ("channel", "channel_selector")
"""Ours, which may also be a word that says where it was recorded, and NeMo's."""
CHANNELS = {"mix": -1, "left": 0, "right": 1}
MOST_CHANNELS = 256
TIME_WORDS = {
    *("start", "begin", "beginning", "onset", "offset", "end", "ending", "stop", "finish", "duration", "dur", "length"),
    *("len", "from", "to", "since", "until", "time", "times", "timestamp", "timestamps", "ts", "tstart", "tend", "t0"),
    *("t1", "xmin", "xmax", "sec", "secs", "seconds", "ms", "msec", "millis", "milliseconds", "seek", "position"),
    *("frames", "samples", "beg", "till"),
}
"""A field whose name has one of these and whose value is a number, or several, says where in the file the clip is."""
STRETCH_WORDS = {
    *("segment", "segments", "seg", "interval", "intervals", "span", "range", "bounds", "boundary", "boundaries"),
    *("region", "clip", "cut", "turn", "window", "extent", "vad"),
}
"""So does one whose name has one of these and whose value is a pair of numbers, or pairs."""
TIME = r"\d+(\.\d+)?|\d+:\d\d(:\d\d)?([.,]\d+)?"
UNIT = r"\s*(ms|msec|msecs|milliseconds?|s|secs?|seconds?|samples?|frames?)?"
EPOCH = 1e8
"""A number from here on is a date in seconds, not a place in a recording."""
MOST_APART = 0.1
"""Seconds by which `start + duration` and `end` may differ."""


@dataclass(frozen=True)
class Stretch:
    """Where a clip is: from second `start` for `duration` seconds (None: to the end), of `channel` (-1: their mean)."""

    start: float
    duration: float | None
    channel: int


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a manifest, each with the place it stands at. Raises UserError."""
    opener = gzip.open if path.suffix == ".gz" else open
    read = {".csv": _csv_rows, ".tsv": _tsv_rows}.get(path.suffix, _json_rows)
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="" if path.suffix == ".csv" else None) as lines:
            yield from read(lines, path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason}); write it as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is damaged ({error}); copy or compress it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror or error}); mend that or name another") from error


def take_audio(fields: dict[str, Any], config: DataConfig, where: str) -> str:
    """Removes and returns the path of the recording. Raises UserError."""
    name = config.audio_field
    if name == "audio" and name not in fields and NEMO_AUDIO in fields:
        name = NEMO_AUDIO
    audio = fields.pop(name, None)
    if not isinstance(audio, str) or not audio:
        there = ", ".join(map(str, fields)) or "none"
        raise UserError(
            f"{where}: no field `{name}` with a path; add it, or name it with data.audio_field (fields here: {there})"
        )
    if "\0" in audio:
        raise UserError(f"{where}: `{name}` is no path, it holds a zero character; correct it")
    return audio


def take_stretch(fields: dict[str, Any], config: DataConfig, where: str) -> Stretch:
    """Removes the fields that say which part of the recording is meant. Raises UserError, also for one not known."""
    start = _take_seconds(fields, STARTS, where)
    end = _take_seconds(fields, ENDS, where)
    duration = _take_seconds(fields, DURATIONS, where)
    for name in config.ignore_fields:
        fields.pop(name, None)
    for name in (found for name, value in fields.items() if (found := _time_in(name, value))):
        raise UserError(
            f"{where}: field `{name}` looks like a time of the clip and is not one of {', '.join(STARTS)}, "
            f"{', '.join(ENDS)}, duration; rename it (in seconds), or list it in data.ignore_fields"
        )
    if end is not None:
        if end <= (start or 0.0):
            raise UserError(f"{where}: the clip ends at second {end}, which is not after its start {start or 0.0}")
        length = end - (start or 0.0)
        if duration is not None and abs(length - duration) > MOST_APART:
            raise UserError(f"{where}: duration {duration} and end - start, {length:.3f}, do not agree; keep one")
        duration = length if duration is None else duration
    return Stretch(start or 0.0, duration, _take_channel(fields, config, where))


def _take_channel(fields: dict[str, Any], config: DataConfig, where: str) -> int:
    channel = CHANNELS[config.channel]
    for name in CHANNEL_FIELDS:
        value = fields.pop(name, None)
        if isinstance(value, str) and value in CHANNELS:
            channel = CHANNELS[value]
        elif name == "channel" and isinstance(value, str) and not _is_number(value):
            fields[name] = value  # such as telephone or microphone: a group
        elif value is not None:
            if isinstance(value, bool) or not _is_number(value) or float(value) not in range(MOST_CHANNELS):
                raise UserError(f"{where}: `{name}` must be mix, left, right or a number from 0, not {value!r}")
            channel = int(float(value))
    return channel


def _take_seconds(fields: dict[str, Any], names: tuple[str, ...], where: str) -> float | None:
    """The value of that of the fields which is there; all are removed."""
    there = {name: value for name in names if (value := fields.pop(name, None)) is not None}
    found: dict[str, float] = {}
    for name, value in there.items():
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds >= 0) or isinstance(value, bool):
            raise UserError(f"{where}: `{name}` must be a number of seconds, not {value!r}")
        found[name] = seconds
    if len(set(found.values())) > 1:
        raise UserError(f"{where}: {' and '.join(found)} do not agree; keep one")
    return next(iter(found.values()), None)


def _time_in(name: str, value: Any) -> str | None:
    """The name of what looks like a time of the clip: the field, or one in the object that it holds."""
    if isinstance(value, dict):
        return next((f"{name}.{found}" for key, one in value.items() if (found := _time_in(str(key), one))), None)
    words = set(re.split(r"[\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()))
    values = value if isinstance(value, list) else [value]
    looks = bool(values) and (
        (words & TIME_WORDS and all(_is_place(one) for one in values))
        or (words & STRETCH_WORDS and (_is_stretch(value) or all(_is_stretch(one) for one in values)))
    )
    return name if looks else None


def _is_stretch(value: Any) -> bool:
    if isinstance(value, str):
        return bool(re.fullmatch(rf"\s*({TIME}){UNIT}\s*(-|–|,|;|\.\.|to)\s*({TIME}){UNIT}\s*", value))
    return isinstance(value, list) and len(value) == 2 and all(_is_place(one) for one in value)


def _is_place(value: Any) -> bool:
    if isinstance(value, str) and re.fullmatch(rf"\s*({TIME}){UNIT}\s*", value):
        return not _is_number(value) or float(value) < EPOCH
    return not isinstance(value, bool) and _is_number(value) and 0 <= float(value) < EPOCH


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _json_rows(lines: Iterable[str], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            fields = json.loads(line, object_pairs_hook=_no_field_twice)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{where}: not valid JSON ({error}); each line must be one object") from error
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        if not isinstance(fields, dict):
            raise UserError(f"{where}: each line must be one JSON object, not {line.strip()[:40]}")
        yield where, fields


def _no_field_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"`{twice}` is there twice; keep one")
    return fields


def _csv_rows(lines: Iterable[str], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    # Strict: what follows a closing quote, or a quote that is never closed, is an error and not text.
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    begin = 1
    try:
        for cells in reader:
            where, end = f"{path}:{begin}", reader.line_num
            if any("\n" in cell or "\r" in cell for cell in cells):
                raise UserError(
                    f"{where}: a quoted cell goes on to line {end}, so a quote is missing there or too many; "
                    "write each row on one line"
                )
            begin = end + 1
            if not cells:
                continue
            if not header:
                header = _header(cells, where)
                continue
            yield where, _named(cells, header, where, "put a text that holds commas in double quotes")
    except csv.Error as error:
        raise UserError(
            f"{path}:{begin}: the quotes of this row do not match ({error}); double those inside a text"
        ) from error


def _tsv_rows(lines: Iterable[str], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    header: list[str] = []
    for number, line in enumerate(lines, 1):
        cells = line.rstrip("\r\n").split("\t")
        if not line.strip():
            continue
        if not header:
            header = _header(cells, f"{path}:{number}")
            continue
        where = f"{path}:{number}"
        yield where, _named(cells, header, where, "a text must hold no tab")


def _header(cells: list[str], where: str) -> list[str]:
    if len(set(cells)) < len(cells):
        raise UserError(f"{where}: two columns have the same name; rename one")
    return cells


def _named(cells: list[str], header: list[str], where: str, hint: str) -> dict[str, Any]:
    if len(cells) != len(header):
        raise UserError(f"{where}: {len(cells)} cells where the first line names {len(header)}; {hint}")
    return dict(zip(header, cells, strict=True))
