"""Training: `quickstart`, `train` and `sweep`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from depthup.cli.options import add_measures, at_least, command_parser, measure_words, names, numbers, quiet


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
