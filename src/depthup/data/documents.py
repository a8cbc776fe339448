"""Plain text in whatever people keep it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Union

from depthup.data.hub_datasets import open_dataset
from depthup.errors import UserError


def documents(sources: Union[str, Sequence[str]], option: str) -> Iterator[str]:
    """The texts of UTF-8 files, each whole, of JSONL with a field `text`, and of Hugging Face datasets.

    Raises UserError, which begins with `option`.
    """
    for source in [sources] if isinstance(sources, str) else sources:
        yield from _of(source, option)


def _of(source: str, option: str) -> Iterator[str]:
    path = Path(source).expanduser()
    if not path.is_file():
        dataset = open_dataset(source)
        if "text" not in dataset.column_names:
            raise UserError(f"{option} {source}: no column `text`; there are {', '.join(dataset.column_names)}")
        yield from (row["text"] for row in dataset)
        return
    try:
        with path.open(encoding="utf-8") as file:
            if path.suffix != ".jsonl":
                yield file.read()
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _text_of(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option} {source}: cannot be read ({error}); give UTF-8 text") from error


def _text_of(line: str, where: str) -> str:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
        raise UserError(f"{where}: no field `text` with plain text")
    return fields["text"]
