"""What several commands share: kinds of options, groups of them, and what they mean."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args

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


def command_parser(command: str, about: str) -> Parser:
    return Parser(prog=f"depthup {command}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def quiet() -> None:
    """No progress bars for reading weights; they say nothing a user waits for."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def load(options: argparse.Namespace, **kwargs: Any) -> Any:
    quiet()
    from depthup import api

    return api.load(options.checkpoint, base=options.base, encoder=options.encoder, codec=options.codec, **kwargs)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Options of what runs a checkpoint on this machine; `on_machine` gives them to `load`."""
    from depthup.config import Kernel

    add = parser.add_argument
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="of the LLM (default: as in training; cpu float32)")
    add(
        "--attn-implementation", choices=get_args(Kernel), default="auto", help="attention kernel (default: the base's)"
    )


def on_machine(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("device", "dtype", "attn_implementation")}


def add_moved(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", help="where the base model is now, if it has moved")
    parser.add_argument("--encoder", help="where the speech encoder is now, if it has moved")
    parser.add_argument("--codec", help="where the neural codec of its speech tokens is now, if it has moved")


def add_measures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--asr", action="append", default=[], metavar="MANIFEST", help="recordings: JSONL, Lhotse, Shar, dataset:split")
    add("--text", metavar="FILE", help="UTF-8 text for perplexity and drift from the base")
    add("--text-tasks", type=names, default=[], metavar="A,B", help="lm-eval tasks, or `paper` for its eight")
    add("--text-data", metavar="DIR", help="folder of local files for the tasks; default: lm-eval's own, from the hub")
    add("--language", metavar="CODE", help="of clips that name none: en, de, zh-CN, ... (default en, which is said)")
    add("--by", action="append", default=[], metavar="FIELD", help="also group WER by this manifest field")
    add("--limit", type=at_least(1), help="most clips, and most questions of each task")
    add_instruction(parser, "also ask this about the recordings: is the answer the base's to their transcripts?")


def measure_words(options: argparse.Namespace) -> list[str]:
    """The arguments of `add_measures` as words again."""
    words = [word for name in ("asr", "by") for value in getattr(options, name) for word in (f"--{name}", value)]
    for name in ("text", "text_data", "language", "limit", "instruction", "examples"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words + (["--text-tasks", ",".join(options.text_tasks)] if options.text_tasks else [])


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> list[float]:
    return [float(number) for number in names(text)]


def add_instruction(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("--instruction", metavar="TEXT", help=f"{about} <|audio|> in it is the recording's place")
    parser.add_argument(
        "--examples", metavar="FILE", help="JSONL of `answer` and `text` or `audio`: how it is followed"
    )


def given_instruction(options: argparse.Namespace, processor: Any) -> Any:
    """What `add_instruction` was given; None without."""
    if options.instruction is None:
        if options.examples:
            raise UserError("--examples show how an instruction is followed; give --instruction TEXT too")
        return None
    from depthup.model.instruction import Instruction
    from depthup.transcribe.examples import read_examples

    examples = read_examples(options.examples, processor.sampling_rate) if options.examples else ()
    return Instruction(options.instruction, examples)
