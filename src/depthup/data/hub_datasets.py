"""Hugging Face datasets, of the hub or of a local directory, by name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from depthup.data.manifest import SUFFIXES
from depthup.errors import UserError

HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(/(?P<config>[\w.-]+))?:(?P<split>.+)")


def open_dataset(source: str) -> Any:
    """A Hugging Face dataset by name (`name:split`) or local directory. Raises UserError."""
    directory, _, split = source.partition(":")
    if Path(directory).expanduser().is_dir():
        return _load_local_dataset(Path(directory).expanduser(), split)
    if (match := HUB_NAME.fullmatch(source)) and not source.endswith(SUFFIXES):
        return _load_dataset(match["name"], source, match["split"], match["config"])
    raise UserError(f"{source}: no such file or directory (a Hugging Face dataset needs its split: `name:split`)")


def datasets_library(source: str) -> ModuleType:
    """Raises UserError where it is not installed, by the `source` that needs it."""
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(f"{source}: Hugging Face datasets need `pip install depthup[datasets]`") from error


def _load_local_dataset(path: Path, split: str) -> Any:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        datasets = datasets_library(str(path))
        dataset = datasets.load_from_disk(str(path))
        if not isinstance(dataset, datasets.DatasetDict):
            return dataset
        if split not in dataset:
            raise UserError(f"{path}: name one of its splits: {', '.join(f'{path}:{name}' for name in dataset)}")
        return dataset[split]
    if not any(path.rglob("*.parquet")):
        raise UserError(f"{path}: a directory without manifest, Shar or dataset files; give a .jsonl with transcripts")
    return _load_dataset(str(path), str(path), split or "train")


def _load_dataset(name_or_path: str, source: str, split: str, config: str | None = None) -> Any:
    try:
        return datasets_library(source).load_dataset(name_or_path, config, split=split)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source}: cannot load the Hugging Face dataset: {reason}") from error
