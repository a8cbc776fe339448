"""What a run takes and a machine can do: `plan` and `doctor`."""

from __future__ import annotations

import json

from depthup.cli.options import above, at_least, command_parser, quiet


def plan(words: list[str]) -> int:
    import dataclasses

    from depthup.planning.assumptions import Assumptions
    from depthup.planning.hardware import NAMES

    parser = command_parser(
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
    quiet()
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


def doctor(words: list[str]) -> int:
    parser = command_parser(
        "doctor",
        "Say what this machine can do: memory, number formats, GPU, kinds of recordings, voice activity, extras, and\n"
        "the model hub; and what would make it do more.",
    )
    parser.parse_args(words)

    quiet()
    from depthup.doctor import print_findings

    print_findings()
    return 0
