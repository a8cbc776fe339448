"""The tensors of a checkpoint's directory, in one file or several."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from depthup.errors import UserError

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def stored(directory: Path) -> dict[str, Path]:
    """The file of each tensor, by its name. Raises UserError where it cannot be read."""
    index = directory / INDEX
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {name: directory / file for name, file in names.items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index}: cannot be read, it may be truncated ({error!r})") from error
    with _opened(directory / WEIGHTS) as file:
        return dict.fromkeys(file.keys(), directory / WEIGHTS)


def shapes(directory: Path) -> dict[str, list[int]]:
    """The shape of each tensor, by its name. Raises UserError."""
    return {name: file.get_slice(name).get_shape() for name, file in _in_files(stored(directory))}


def read(directory: Path, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors by name, one at a time. Raises UserError."""
    files = stored(directory)
    for name, file in _in_files({name: files[name] for name in names}):
        yield name, file.get_tensor(name)


def _in_files(names: dict[str, Path]) -> Iterator[tuple[str, Any]]:
    for path, group in groupby(sorted(names.items(), key=lambda item: item[1]), lambda item: item[1]):
        with _opened(path) as file:
            for name, _ in group:
                yield name, file


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read, it may be truncated ({error})") from error
