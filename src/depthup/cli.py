"""The commands: nothing but parsing and calling."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, get_args

from depthup import __version__
from depthup.errors import UserError
from depthup.options import Parser, above, add_fields, at_least, data_config, in_options

if TYPE_CHECKING:
    from depthup.evaluate import Evaluation

Command = Callable[[list[str]], int]


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


def _parser(command: str, about: str) -> Parser:
    return Parser(prog=f"depthup {command}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def _quiet() -> None:
    """No progress bars for reading weights; they say nothing a user waits for."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _is_recipe(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def upscale(words: list[str]) -> int:
    import dataclasses

    from jsonargparse import ArgumentError, ArgumentParser, Namespace

    from depthup.config import EncoderConfig, Recipe, UpscaleConfig
    from depthup.recipe import hyphenless, load_recipe, one_line

    parser = ArgumentParser(
        prog="depthup upscale",
        description="Insert layers into a base model, print what the model is made of, and save.",
        epilog="example: depthup upscale HuggingFaceTB/SmolLM2-360M my-model --layer e_branchformer --num-layers 8",
        exit_on_error=False,
    )
    parser.add_argument("base", help="base model: hub id, directory, or a recipe (.yaml)")
    parser.add_argument("output_dir", nargs="?", help="new directory for the upscaled model")
    parser.add_argument("--dry_run", action="store_true", help="print what it would be made of only; needs no weights")
    parser.add_class_arguments(UpscaleConfig, as_group=False)
    parser.add_class_arguments(EncoderConfig, "encoder")
    words = hyphenless(words)
    from_recipe = [w for w in words if _is_recipe(w)][:1]
    recipe = load_recipe(from_recipe[0]) if from_recipe else Recipe()
    parser.set_defaults({**dataclasses.asdict(recipe.upscale), "encoder": dataclasses.asdict(recipe.encoder)})
    try:
        options = parser.instantiate(parser.parse_args(words))
        chosen = UpscaleConfig(**{f.name: options[f.name] for f in dataclasses.fields(UpscaleConfig)})
        encoder = EncoderConfig(**vars(options.encoder)) if isinstance(options.encoder, Namespace) else options.encoder
    except (ArgumentError, ValueError) as error:
        raise UserError(one_line(error, "upscale")) from error

    _quiet()
    from depthup import api
    from depthup.report.terminal import print_summary

    recipe = dataclasses.replace(
        recipe, upscale=chosen, encoder=encoder, base=recipe.base if from_recipe else options.base
    )
    print_summary(api.upscale(recipe, options.output_dir, dry_run=options.dry_run))
    if not options.dry_run:
        print(
            f"\nSaved to {options.output_dir}; until it is trained it computes what the base computes. "
            f"Train it: depthup train RECIPE --init_from {options.output_dir}"
        )
    return 0


def train(words: list[str]) -> int:
    from depthup.recipe import dump_recipe, load_recipe, recipe_parser

    if not words or words[0] in ("-h", "--help"):
        parser = recipe_parser(
            description="Adapt a base model as a recipe says. The same command resumes a run that was interrupted.",
            epilog="example: depthup train recipes/fsdd.yaml --output_dir runs/a --train.max_steps 500\n"
            "--print_config shows all values and trains nothing.",
        )
        parser.print_help()
        return 0
    recipe, *overrides = words
    print_config = [w for w in overrides if w in ("--print_config", "--print-config")]
    loaded = load_recipe(recipe, [w for w in overrides if w not in print_config])
    if print_config:
        print(dump_recipe(loaded), end="")
        return 0
    _quiet()
    from depthup import api

    run = api.train(loaded)
    if os.environ.get("RANK", "0") == "0":
        print(f"Trained checkpoint: {run}")
    return 0


def data(words: list[str]) -> int:
    parser = _parser(
        "data",
        "Turn recordings into shards that can be streamed in training: Lhotse Shar, mono FLAC or speech tokens,\n"
        "with checksums.\n"
        "The same command goes on where it was interrupted.",
    )
    parser.epilog = "example: depthup data train.jsonl --output shards/train; depthup data --verify shards/train"
    add = parser.add_argument
    add(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="manifest, table, folder, Lhotse cuts or supervisions, Shar, dataset:split",
    )
    add("--output", metavar="DIR", help="new directory for the shards")
    add("--tokenizer", metavar="DIR", help="speech tokenizer whose tokens are written instead of audio")
    add("--verify", metavar="DIR", help="compare shards with their checksums, and name those that are damaged")
    add("--look", metavar="PAGE", help="write an HTML page about one SOURCE: hours, speakers, odd transcripts, clips")
    add("--shard-clips", type=at_least(1), default=1000, help="clips per shard (default %(default)s)")
    add(
        "--num-workers",
        type=at_least(0),
        default=os.cpu_count(),
        help="processes that write (default %(default)s); 0: none",
    )
    add("--sampling-rate", type=at_least(0), default=16000, help="Hz (default %(default)s); 0 keeps each clip's own")
    add_fields(parser)
    options = parser.parse_args(words)
    if options.look and len(options.sources) == 1 and not (options.output or options.verify):
        from depthup.report.look import look_at, write_look

        found = look_at(options.sources[0], data_config(options))
        write_look(found, Path(options.look), data_config(options))
        print(f"{len(found.seconds)} clips, {found.hours:.2f} hours, {len(found.odd)} suspicious: {options.look}")
        return 0
    if options.look or bool(options.verify) == bool(options.sources) or bool(options.sources) != bool(options.output):
        raise UserError("data: give SOURCE... and --output DIR, one SOURCE and --look PAGE, or --verify DIR")
    from depthup.data.shards import make_shards, verify_shards

    if options.verify:
        damaged = verify_shards(options.verify)
        for line in damaged:
            print(f"depthup: {line}", file=sys.stderr)
        if not damaged:
            print(f"All shards are whole: {options.verify}")
        return 2 if damaged else 0
    manifest = make_shards(
        options.sources,
        options.output,
        data_config(options),
        shard_clips=options.shard_clips,
        sampling_rate=options.sampling_rate,
        num_workers=options.num_workers,
        tokenizer=options.tokenizer,
    )
    for kind, found in manifest["skipped"].items():
        print(f"skipped {found['clips']} clips: {kind}", file=sys.stderr)
    shards = len(manifest["shards"])
    print(f"{manifest['clips']} clips, {manifest['hours']:.2f} hours in {shards} shards: {options.output}")
    return 0


def tokenizer(words: list[str]) -> int:
    parser = _parser(
        "tokenizer",
        "Make a speech tokenizer: k-means over the frames of an audio encoder (semantic tokens), the codebooks of a\n"
        "neural codec (acoustic tokens), or both. A recipe names it as its encoder; `depthup data` writes its tokens.",
    )
    parser.epilog = (
        "example: depthup tokenizer train.jsonl --encoder facebook/hubert-base-ls960 --layer 9 --clusters 500 "
        "--codec descript/dac_16khz --codec-streams 8 --output tokenizer"
    )
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", help="recordings to cluster, as `depthup data` takes them")
    add("--output", metavar="DIR", required=True, help="new directory for the tokenizer")
    add("--encoder", help="Hugging Face audio encoder whose frames are clustered: hub id or directory")
    add("--layer", type=int, help="its transformer layer, 1 for the lowest (default: what the whole encoder puts out)")
    add("--clusters", type=int, default=500, help="semantic tokens (default %(default)s)")
    add("--codec", help="Hugging Face EnCodec, DAC or Mimi: hub id or directory")
    add("--codec-streams", type=int, help="its codebooks that are used, from the first (default all)")
    add("--hours", type=float, default=100.0, help="most hours of recordings to cluster (default %(default)s)")
    add("--seed", type=int, default=0, help="of the order of recordings and of the clustering (default %(default)s)")
    add("--audio-field", default="audio", help="field or column with the audio")
    add("--strict", action="store_true", help="stop at the first bad clip instead of skipping it")
    options = parser.parse_args(words)
    _quiet()
    from depthup.config import DataConfig
    from depthup.speech_tokens.fit import make_tokenizer

    config = make_tokenizer(
        options.sources,
        options.output,
        encoder=options.encoder,
        layer=options.layer,
        clusters=options.clusters,
        codec=options.codec,
        codec_streams=options.codec_streams,
        hours=options.hours,
        seed=options.seed,
        data=DataConfig(audio_field=options.audio_field, strict=options.strict),
    ).config
    if fit := config.fit:
        print(
            f"{config.num_clusters} clusters of {fit['hours']:g} h ({fit['frames']:,} frames): "
            f"{fit['explained']:.1%} of the variance"
        )
    sizes = " + ".join(str(size) for size in config.codebook_sizes or [])
    print(f"{sizes} ids, {config.frame_rate:g} frames a second: {options.output}")
    return 0


def transcribe(words: list[str]) -> int:
    from depthup.transcribe.formats import FORMATS
    from depthup.transcribe.hotwords import listed
    from depthup.transcribe.voice import Vad

    parser = _parser("transcribe", "Write down what is said in recordings, however long.")
    parser.epilog = "example: depthup transcribe run talk.mp4 interviews/ --format srt --output subtitles"
    parser.add_argument("checkpoint", help="directory or hub id of a depthup checkpoint")
    parser.add_argument("audio", nargs="+", help="files, folders, or - for standard input; any format, rate, channels")
    add = parser.add_argument
    add("--format", choices=FORMATS, default="text", help="json has times, confidences and speed too (default: text)")
    add("--output", type=Path, metavar="DIR", help="one file a recording there; goes on where it was stopped")
    add("--language", help="code of the language spoken, which json names")
    add("--prompt", metavar="TEXT", help="what the LLM reads first: names and terms, or what was said before")
    add("--hotwords", metavar="LIST", type=listed, default=(), help="names and terms, with commas, that may be said")
    add("--fallback", choices=("ctc",), help="where what the LLM writes is not what was heard, write that instead")
    add("--channel", type=_channel, default="mix", help="mix (default), left, right, a number from 0, or each alone")
    add("--vad", choices=get_args(Vad), default="auto", help="what finds speech (default: silero, if installed)")
    add("--batch-seconds", type=above(0.0), help="seconds of audio per batch (default 120, on GPUs 1200)")
    add("--num-beams", type=at_least(1), default=1, help="beam search with so many beams (default 1: greedy)")
    _add_instruction(parser, 'what to do instead, such as "Translate into French."')
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="of the LLM (default: as in training; cpu float32)")
    _add_moved(parser)
    options = parser.parse_args(words)

    from depthup.transcribe.output import output_to, transcribe_to

    output = output_to(options.output, options.audio, options.format)
    model, processor = _load(options, device=options.device, dtype=options.dtype)
    names = ("language", "prompt", "hotwords", "fallback", "channel", "vad", "batch_seconds", "num_beams")
    asked = {name: getattr(options, name) for name in names} | {"instruction": _instruction(options, processor)}
    return 0 if transcribe_to(output, model, processor, options.audio, asked) else 2


def _channel(word: str) -> str | int:
    if word in ("mix", "left", "right", "each"):
        return word
    if not word.isdigit():
        raise argparse.ArgumentTypeError(f"{word!r} is none of mix, left, right, each, and no number")
    return int(word)


def evaluate(words: list[str]) -> int:
    parser = _parser("evaluate", "Measure word error rate on recordings, and what adaptation did to text.")
    parser.add_argument("checkpoint", help="directory or hub id of a depthup checkpoint")
    _add_measures(parser)
    add_fields(parser)
    parser.add_argument("--output", metavar="DIR", help="write every clip there, the worst first: JSONL, and a page")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    _add_moved(parser)
    options = parser.parse_args(words)
    if not (options.asr or options.text or options.text_tasks):
        raise UserError("evaluate: nothing to measure; give --asr MANIFEST, --text FILE or --text-tasks TASK,...")
    if options.instruction is not None and not options.asr:
        raise UserError("evaluate: an instruction is about recordings; give --asr MANIFEST too")

    model, processor = _load(options)
    from depthup import api
    from depthup.evaluate import Evaluation
    from depthup.model.card import kept_current

    found, kept = Evaluation(), Path(options.checkpoint)

    def keep() -> None:
        if kept.is_dir():
            with kept_current(model, kept):
                found.keep(kept)

    try:
        api.evaluate(
            model,
            processor,
            options.asr,
            options.text,
            options.text_tasks,
            text_data=options.text_data,
            data=data_config(options, language=options.language),
            by=options.by,
            limit=options.limit,
            instruction=_instruction(options, processor),
            output=options.output,
            found=found,
            stands=keep,
        )
    finally:  # what was measured before something went wrong is told
        if options.json:
            print(json.dumps(found.to_dict(), ensure_ascii=False))
        else:
            _print_evaluation(found)
    return 0


def _print_evaluation(found: Evaluation) -> None:
    from depthup.report.degradation import print_tasks
    from depthup.report.terminal import print_asr, print_instruction, print_text

    for source, heard in found.asr.items():
        print_asr(heard, source)
    for (source, instruction), answered in found.instructions.items():
        print_instruction(answered, f"{source}: {instruction}")
    for text in found.drift.values():
        print_text(text)
    if found.tasks:
        print_tasks(found.by_name()["tasks"])


def export(words: list[str]) -> int:
    parser = _parser(
        "export",
        "Write a checkpoint with its base and encoder inside, which needs nothing else and can be pushed to the hub;\n"
        "or as a text LLM that other tools load without depthup.",
    )
    parser.epilog = "example: depthup export runs/a my-model --push-to-hub me/my-model"
    parser.add_argument("checkpoint", help="directory or hub id of a depthup checkpoint")
    parser.add_argument("output_dir", help="new directory")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--drop-layers", action="store_true", help="the base without inserted layers and adapters, exact")
    about = "the text LLM alone, of the base's own class: layers of kind transformer with scope all, or method full"
    what.add_argument("--llm", action="store_true", help=about)
    parser.add_argument("--max-shard-size", default="5GB", help="most bytes of a file of weights (default %(default)s)")
    parser.add_argument("--push-to-hub", metavar="REPO", help="upload it too, with its model card")
    _add_moved(parser)
    options = parser.parse_args(words)
    if options.push_to_hub and (options.drop_layers or options.llm):
        raise UserError("--push-to-hub: is for a whole checkpoint; upload a plain LLM with its own push_to_hub")
    _quiet()
    from depthup.model import hub
    from depthup.model.export import export_base, export_llm, export_standalone

    moved = {"base": options.base, "encoder": options.encoder}
    if options.drop_layers:
        export_base(options.checkpoint, options.output_dir, options.base)
    elif options.llm:
        export_llm(options.checkpoint, options.output_dir, **moved)
    else:
        export_standalone(options.checkpoint, options.output_dir, **moved, max_shard_size=options.max_shard_size)
    loads = "AutoModelForCausalLM.from_pretrained" if options.drop_layers or options.llm else "depthup.load"
    print(f"Exported to {options.output_dir}: {loads} loads it")
    if options.push_to_hub:
        print(f"Uploaded: {hub.push(Path(options.output_dir), options.push_to_hub)}")
    return 0


def compare(words: list[str]) -> int:
    parser = _parser("compare", "Put runs side by side: word error rates, what text lost, and what it cost.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, measured with `depthup evaluate`")
    parser.add_argument("--output", metavar="DIR", help="write compare.md, compare.json and compare.html there")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(words)
    from depthup import api
    from depthup.report.tables import print_comparison

    comparison = api.compare(options.runs, options.output)
    if options.json:
        print(json.dumps(comparison.to_dict(), ensure_ascii=False))
    else:
        print_comparison(comparison)
    return 0


def sweep(words: list[str]) -> int:
    from depthup.sweep import METHODS, Sweep

    parser = _parser(
        "sweep",
        "Train every method on one recipe, each at the learning rate that a short search finds for it,\n"
        "measure them, and compare. The same command goes on where it was interrupted.",
    )
    parser.epilog = f"methods: {', '.join(METHODS)}\nWhat else is given overrides the recipe, as --section.key value."
    parser.add_argument("recipe", help="recipe with data.validation; its method and learning rate are replaced")
    where = "where runs and report go (default %(default)s)"
    parser.add_argument("--output_dir", "--output-dir", type=Path, default=Path("runs/sweep"), help=where)
    parser.add_argument("--methods", type=_names, default=[], help="comma-separated; default all the recipe allows")
    parser.add_argument("--rates", type=_numbers, default=[1e-4, 3e-4, 1e-3], help="learning rates tried (%(default)s)")
    parser.add_argument("--search-steps", type=at_least(1), default=50, help="steps at each rate (default %(default)s)")
    parser.add_argument("--jobs", type=at_least(1), default=1, help="methods trained at a time (default %(default)s)")
    _add_measures(parser)
    options, overrides = parser.parse_known_args(words)
    from depthup import api
    from depthup.report.tables import print_comparison

    sweep = Sweep(
        options.recipe,
        overrides,
        options.output_dir,
        options.rates,
        options.search_steps,
        options.methods,
        _measure_words(options),
        options.jobs,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    runs = sweep.run()
    if runs:
        print_comparison(api.compare(runs, options.output_dir))
        print(f"Report: {options.output_dir / 'compare.html'}")
    for name, error in sweep.failed.items():
        print(f"depthup: {name}: {error}", file=sys.stderr)
    return 2 if sweep.failed else 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[float]:
    return [float(number) for number in _names(text)]


def _add_measures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--asr", action="append", default=[], metavar="MANIFEST", help="recordings: JSONL, Lhotse, Shar, dataset:split")
    add("--text", metavar="FILE", help="UTF-8 text for perplexity and drift from the base")
    add("--text-tasks", type=_names, default=[], metavar="A,B", help="lm-eval tasks, or `paper` for its eight")
    add("--text-data", metavar="DIR", help="folder of local files for the tasks; default: lm-eval's own, from the hub")
    add("--language", metavar="CODE", help="of clips that name none: en, de, zh-CN, ... (default en, which is said)")
    add("--by", action="append", default=[], metavar="FIELD", help="also group WER by this manifest field")
    add("--limit", type=at_least(1), help="most clips, and most questions of each task")
    _add_instruction(parser, "also ask this about the recordings: is the answer the base's to their transcripts?")


def _measure_words(options: argparse.Namespace) -> list[str]:
    """The arguments of `_add_measures` as words again."""
    words = [word for name in ("asr", "by") for value in getattr(options, name) for word in (f"--{name}", value)]
    for name in ("text", "text_data", "language", "limit", "instruction", "examples"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words + (["--text-tasks", ",".join(options.text_tasks)] if options.text_tasks else [])


def plan(words: list[str]) -> int:
    import dataclasses

    from depthup.planning.assumptions import Assumptions
    from depthup.planning.hardware import NAMES

    parser = _parser(
        "plan",
        "Print what a recipe will take, from configurations alone: steps, operations, memory, time and cost.\n"
        "No weights are read and nothing is computed; what must be assumed is printed with the plan.",
    )
    parser.allow_abbrev = False
    parser.epilog = (
        "example: depthup plan recipes/paper/smollm2-1.7b/full.yaml --gpu h100 --gpus 8 --hours 48000 --price 2.5\n"
        "What else is given overrides the recipe, as --section.key value."
    )
    add = parser.add_argument
    add("recipe", help="recipe of the run")
    add("--gpu", choices=NAMES, default="h100", help="kind of GPU; custom and cpu need --tflops (default %(default)s)")
    add("--gpus", type=at_least(1), default=1, help="how many (default %(default)s)")
    add("--tflops", type=above(0.0), help="of custom: dense bfloat16 TFLOP/s; of cpu: float32")
    add("--memory-gb", type=above(0.0), help="of custom and cpu: memory in GB")
    add(
        "--hours",
        type=above(0.0),
        help="hours of speech in the corpus; without them the recipe's own steps are planned",
    )
    add("--epochs", type=above(0.0), help="passes over the corpus (default 1)")
    add("--sharding", choices=("none", "full"), default="none", help="whole copies, or divided over the GPUs as FSDP")
    add("--price", type=at_least(0.0), help="price of a GPU for an hour")
    add("--json", action="store_true", help="one JSON object on standard output")
    assumed = parser.add_argument_group("assumptions")
    for field in dataclasses.fields(Assumptions):
        name, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        assumed.add_argument(name, type=kind, default=field.default, help=f"{field.metadata['about']} (%(default)s)")
    options, overrides = parser.parse_known_args(words)
    _quiet()
    from depthup.planning.hardware import device
    from depthup.planning.planner import plan_training
    from depthup.planning.report import print_training_plan
    from depthup.recipe import load_recipe

    found = plan_training(
        load_recipe(options.recipe, overrides),
        device(options.gpu, options.tflops, options.memory_gb),
        gpus=options.gpus,
        hours=options.hours,
        epochs=options.epochs,
        sharding=options.sharding,
        price=options.price,
        assumed=Assumptions(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Assumptions)}),
    )
    if options.json:
        print(json.dumps(found.to_dict()))
    else:
        print_training_plan(found)
    return 0


def quickstart(words: list[str]) -> int:
    parser = _parser(
        "quickstart",
        "Minutes to a text LLM that hears: takes SmolLM2-135M, makes a small corpus of synthetic speech,\n"
        "inserts E-Branchformer layers, trains them, and measures speech and text before and after.",
    )
    parser.add_argument("--dir", type=Path, default=Path("quickstart"), help="where everything goes")
    parser.add_argument("--base", help="a base by hub id or directory instead of the packaged SmolLM2-135M-Instruct")
    options = parser.parse_args(words)
    _quiet()
    from depthup.quickstart.run import run

    run(options.dir, options.base)
    return 0


def _add_instruction(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("--instruction", metavar="TEXT", help=f"{about} <|audio|> in it is the recording's place")
    parser.add_argument(
        "--examples", metavar="FILE", help="JSONL of `answer` and `text` or `audio`: how it is followed"
    )


def _instruction(options: argparse.Namespace, processor: Any) -> Any:
    """What `_add_instruction` was given; None without."""
    if options.instruction is None:
        if options.examples:
            raise UserError("--examples show how an instruction is followed; give --instruction TEXT too")
        return None
    from depthup.model.instruction import Instruction
    from depthup.transcribe.examples import read_examples

    examples = read_examples(options.examples, processor.sampling_rate) if options.examples else ()
    return Instruction(options.instruction, examples)


def serve(words: list[str]) -> int:
    import dataclasses

    parser = _parser(
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
    _add_moved(parser)
    options = parser.parse_args(words)
    options.api_key = options.api_key or os.environ.get("DEPTHUP_API_KEY", "")
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields})
    settings.check()
    model, processor = _load(options)
    from depthup.serve.run import serve as run

    run(model, processor, settings, options.checkpoint)
    return 0


def _add_moved(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", help="where the base model is now, if it has moved")
    parser.add_argument("--encoder", help="where the speech encoder is now, if it has moved")
    parser.add_argument("--codec", help="where the neural codec of its speech tokens is now, if it has moved")


def _load(options: argparse.Namespace, **kwargs: Any) -> Any:
    _quiet()
    from depthup import api

    return api.load(options.checkpoint, base=options.base, encoder=options.encoder, codec=options.codec, **kwargs)


def doctor(words: list[str]) -> int:
    parser = _parser(
        "doctor",
        "Say what this machine can do: memory, number formats, GPU, kinds of recordings, voice activity, extras, and\n"
        "the model hub; and what would make it do more.",
    )
    parser.parse_args(words)

    _quiet()
    from depthup.doctor import print_findings

    print_findings()
    return 0


COMMANDS: dict[str, tuple[Command, str]] = {
    "quickstart": (quickstart, "from nothing to a small speech LLM, measured, in minutes"),
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

if __name__ == "__main__":
    sys.exit(main())
