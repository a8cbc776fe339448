"""Examples of how an instruction is followed, from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from depthup.errors import UserError
from depthup.model.instruction import Example
from depthup.transcribe.reading import read_audio_file

FIELDS = "`answer`, and `text` (what was said) or `audio` (a file, relative to this one)"


def read_examples(path: str | Path, sampling_rate: int) -> list[Example]:
    """Examples of a JSONL file: one object a line with `answer`, and `text` or `audio`, relative to the file.

    Raises UserError naming file and line.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); examples are UTF-8, one JSON object a line") from error
    found = [_example(line, file, number, sampling_rate) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{file}: holds no example; a line has {FIELDS}")
    return found


def _example(line: str, file: Path, number: int, sampling_rate: int) -> Example:
    where = f"{file}:{number}"
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg})") from error
    strings = isinstance(row, dict) and all(isinstance(value, str) for value in row.values())
    if not strings or set(row) not in ({"answer", "text"}, {"answer", "audio"}):
        raise UserError(f"{where}: an example has {FIELDS}, all of them strings, and nothing else")
    audio = read_audio_file(file.parent / row["audio"], sampling_rate) if "audio" in row else None
    try:
        return Example(row["answer"], row.get("text"), audio)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
