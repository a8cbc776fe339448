"""Kinds of options that several commands share: numbers within a range, and which fields of a manifest mean what."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from depthup.errors import UserError

if TYPE_CHECKING:
    from depthup.config import DataConfig

Number = TypeVar("Number", int, float)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an option in one line, in the words of its own command."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.partition(" ")[2] or self.prog
        raise UserError(f"{command}: {message}; `{self.prog} --help` shows all options")


def at_least(least: Number) -> Callable[[str], Number]:
    """The type of an option whose number is `least` or more."""
    return _bounded(least, f"at least {least}", lambda value: value >= least)


def above(bound: Number) -> Callable[[str], Number]:
    """The type of an option whose number is more than `bound`."""
    return _bounded(bound, f"more than {bound}", lambda value: value > bound)


def _bounded(bound: Number, what: str, fits: Callable[[Number], bool]) -> Callable[[str], Number]:
    def number(text: str) -> Number:
        value = type(bound)(text)
        if not math.isfinite(value) or not fits(value):
            raise argparse.ArgumentTypeError(f"must be {what}, not {text}")
        return value

    number.__name__ = type(bound).__name__  # what argparse calls it where the text is no number
    return number


def in_options(message: str) -> str:
    """A line about the fields of a recipe's `data`, in the words of commands that have them as options."""
    keys = r"\bdata\.(audio_field|text_field|ignore_field|channel|strict|language)s?\b"
    return re.sub(keys, lambda key: "--" + key[1].replace("_", "-"), message)


def add_fields(parser: Any) -> None:
    """The options of `data_config`."""
    add = parser.add_argument
    add("--audio-field", default="audio", help="field or column with the audio")
    add("--text-field", default="text", help="field or column with the transcript")
    add("--ignore-field", action="append", default=[], metavar="FIELD", help="a field that only looks like a time")
    add("--channel", choices=("mix", "left", "right"), default="mix", help="of clips that name none (default mix)")
    add("--strict", action="store_true", help="stop at the first bad clip instead of skipping and counting it")


def data_config(options: argparse.Namespace, **others: Any) -> DataConfig:
    """How manifests are read, of the options of `add_fields`."""
    from depthup.config import DataConfig

    return DataConfig(
        audio_field=options.audio_field,
        text_field=options.text_field,
        ignore_fields=options.ignore_field,
        channel=options.channel,
        strict=options.strict,
        **others,
    )
