"""A checkpoint at work: `transcribe` and `serve`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import get_args

from depthup.cli.options import (
    above,
    add_instruction,
    add_machine,
    add_moved,
    at_least,
    command_parser,
    given_instruction,
    load,
    on_machine,
    quiet,
)


def transcribe(words: list[str]) -> int:
    from depthup.transcribe.formats import FORMATS
    from depthup.transcribe.hotwords import listed
    from depthup.transcribe.voice import Vad

    parser = command_parser("transcribe", "Write down what is said in recordings, however long.")
    parser.epilog = "example: depthup transcribe run talk.mp4 interviews/ --format srt --output subtitles"
    parser.add_argument("checkpoint", help="directory or hub id of a depthup checkpoint")
    parser.add_argument("audio", nargs="+", help="files, folders, or - for standard input; any format, rate, channels")
    add = parser.add_argument
    add("--format", choices=FORMATS, default="text", help="json has times, confidences and speed too (default: text)")
    add("--output", type=Path, metavar="DIR", help="one file a recording there; goes on where it was stopped")
    add("--language", help="what is spoken: fr, German ... (needs a multilingual Whisper's decoder)")
    add("--prompt", metavar="TEXT", help="what the LLM reads first: names and terms, or what was said before")
    add("--hotwords", metavar="LIST", type=listed, default=(), help="names and terms, with commas, that may be said")
    add("--fallback", choices=("ctc", "draft"), help="written where the LLM's text is not what was heard")
    add("--channel", type=_channel, default="mix", help="mix (default), left, right, a number from 0, or each alone")
    add("--vad", choices=get_args(Vad), default="auto", help="what finds speech (default: silero, if installed)")
    add("--batch-seconds", type=above(0.0), help="seconds of audio per batch (default 120, on GPUs 1200)")
    add("--num-beams", type=at_least(1), default=1, help="beam search with so many beams (default 1: greedy)")
    add_instruction(parser, 'what to do instead, such as "Translate into French."')
    add_machine(parser)
    add_moved(parser)
    options = parser.parse_args(words)

    from depthup.transcribe.output import output_to, transcribe_to

    output = output_to(options.output, options.audio, options.format)
    if options.language is not None:
        _refuse_language(options.checkpoint, options.language)
    model, processor = load(options, **on_machine(options))
    names = ("language", "prompt", "hotwords", "fallback", "channel", "vad", "batch_seconds", "num_beams")
    asked = {name: getattr(options, name) for name in names} | {"instruction": given_instruction(options, processor)}
    return 0 if transcribe_to(output, model, processor, options.audio, asked) else 2


def _refuse_language(name: str, language: str) -> None:
    """Raises UserError where the model cannot be told a language, before its weights are read."""
    quiet()
    from depthup.model import checkpoint
    from depthup.model.processor import SpeechProcessor

    SpeechProcessor.kept_in(checkpoint.find(name)).languages(language, 1)


def _channel(word: str) -> str | int:
    if word in ("mix", "left", "right", "each"):
        return word
    if not word.isdigit():
        raise argparse.ArgumentTypeError(f"{word!r} is none of mix, left, right, each, and no number")
    return int(word)


def serve(words: list[str]) -> int:
    import dataclasses

    parser = command_parser(
        "serve",
        "Serve a checkpoint: OpenAI's API for transcription, chat and live microphones, and a page.\n"
        "The first request may come as soon as the address is printed; SIGTERM finishes what runs.",
    )
    parser.epilog = "example: DEPTHUP_API_KEY=... depthup serve my-run --host 0.0.0.0; needs depthup[serve]"
    parser.add_argument("checkpoint", help="directory or hub id of a depthup checkpoint")
    from depthup.serve.settings import Settings

    fields = dataclasses.fields(Settings)
    for field in fields:
        name, kind, about = f"--{field.name.replace('_', '-')}", type(field.default), field.metadata["about"]
        parser.add_argument(name, type=kind, default=field.default, help=f"{about} (default %(default)s)")
    add_machine(parser)
    add_moved(parser)
    options = parser.parse_args(words)
    options.api_key = options.api_key or os.environ.get("DEPTHUP_API_KEY", "")
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields})
    settings.check()
    model, processor = load(options, **on_machine(options))
    from depthup.serve.run import serve as run

    run(model, processor, settings, options.checkpoint)
    return 0
