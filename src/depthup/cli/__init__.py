"""The commands: nothing but parsing and calling. A new one is a function in a group's file and a line in `COMMANDS`.

All heavy imports are in the functions, so that `--help` and mistakes in options are answered at once.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Optional

from depthup import __version__
from depthup.cli.hearing import serve, transcribe
from depthup.cli.machine import doctor, plan
from depthup.cli.measuring import compare, evaluate
from depthup.cli.models import export, upscale
from depthup.cli.options import in_options
from depthup.cli.recordings import data, tokenizer
from depthup.cli.training import new, quickstart, sweep, train
from depthup.errors import UserError

Command = Callable[[list[str]], int]


COMMANDS: dict[str, tuple[Command, str]] = {
    "quickstart": (quickstart, "from nothing to a small speech LLM, measured, in minutes"),
    "new": (new, "a commented recipe for your recordings, language and machine"),
    "upscale": (upscale, "insert layers into a base model"),
    "data": (data, "recordings into shards that can be streamed, with checksums"),
    "tokenizer": (tokenizer, "speech as discrete tokens: k-means over an audio encoder, and a neural codec"),
    "plan": (plan, "what a training run will take: steps, memory, time, cost"),
    "train": (train, "adapt a base model to recordings, as a recipe says"),
    "transcribe": (transcribe, "audio in, text out"),
    "serve": (serve, "OpenAI's API and a page for a checkpoint"),
    "evaluate": (evaluate, "word error rate, and what adaptation did to text"),
    "export": (export, "a checkpoint with its base inside, for the hub, or as a plain LLM"),
    "compare": (compare, "several runs in one table and one picture"),
    "sweep": (sweep, "train, measure and compare every method on one recipe"),
    "doctor": (doctor, "what this machine can do"),
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run a command and return its exit status: 0, or 2 after one line about what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="depthup",
        description="Teach a text LLM to hear, without making it forget how to read.",
        epilog="\n".join(["commands:", *(f"  {name:<12}{about}" for name, (_, about) in COMMANDS.items())])
        + "\n\n`depthup COMMAND --help` explains a command. New here? `depthup quickstart`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="depthup [--version] COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"depthup {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(words[:1] or ["--help"]).command
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for stream in (sys.stdout, sys.stderr):  # a name or a text may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = COMMANDS[chosen][0](words[1:])
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"depthup: {in_options(str(error)) if chosen in ('data', 'evaluate') else error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output, such as `head`, has enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for what is flushed at the end
        return 0
    except KeyboardInterrupt:
        print("depthup: interrupted", file=sys.stderr)
        return 130
