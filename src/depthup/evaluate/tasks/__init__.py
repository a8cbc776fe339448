"""lm-eval task definitions for local JSONL files, putting each question as lm-eval's own task of that name does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from depthup.errors import UserError


def read_jsonl(file: str, fields: Sequence[str], folder: str, **metadata: Any) -> dict[str, Any]:
    """The questions of `file` in `folder` as the split `test`, with the `fields` their task needs.

    Called by lm-eval with what a definition says under `metadata` and `dataset_kwargs`. The data set stays in memory:
    one kept on disk could outlive a change of the file. Questions with a `category` come in turn from each, so that the
    first ones are of all. Raises UserError naming file and line.
    """
    from datasets import Dataset

    path = Path(folder) / file
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; the text task needs it, one JSON object a line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    rows = [_row(line, fields, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise UserError(f"{path}: holds no question")
    return {"test": Dataset.from_list(_in_turn(rows))}


def _in_turn(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first question of each category, then the second of each."""
    turns, seen = [], Counter[Any]()
    for row in rows:
        category = row.get("category", object())
        turns.append(seen[category])
        seen[category] += 1
    return [row for _, row in sorted(zip(turns, rows, strict=True), key=itemgetter(0))]


def _row(line: str, fields: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg})") from error
    missing = [name for name in fields if not isinstance(row, dict) or name not in row]
    if missing:
        raise UserError(f"{where}: no field `{missing[0]}`; a question has {', '.join(fields)}")
    options = row.get("choices") or row.get("context_options") or []
    if not isinstance(options, list) or not all(isinstance(one, str) for one in options):
        raise UserError(f"{where}: choices must be a list of texts, not {options!r}")
    for name in ("query", "context"):
        if not isinstance(row.get(name, ""), str):
            raise UserError(f"{where}: `{name}` must be a text, not {row[name]!r}")
    if "gold" in fields and (type(row["gold"]) is not int or row["gold"] not in range(len(options))):
        raise UserError(f"{where}: gold {row['gold']!r} is none of its {len(options)} choices, counted from 0")
    return {name: row[name] for name in fields}
