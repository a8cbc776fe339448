"""Rooms that are calls too: `depthup.train(recipe)` is `depthup.api.train`, and `depthup.train` holds its modules."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


class Room(ModuleType):
    """A package that may be called; its `__class__` is set to this (Python's data model, module attribute access)."""

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The call of its name, by which `inspect` and notebooks find its signature."""
        return getattr(import_module("depthup.api"), self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)
