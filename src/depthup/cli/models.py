"""Models made and handed on: `upscale` and `export`."""

from __future__ import annotations

from pathlib import Path

from depthup.cli.options import add_moved, command_parser, quiet
from depthup.errors import UserError


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

    quiet()
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


def _is_recipe(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def export(words: list[str]) -> int:
    parser = command_parser(
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
    add_moved(parser)
    options = parser.parse_args(words)
    if options.push_to_hub and (options.drop_layers or options.llm):
        raise UserError("--push-to-hub: is for a whole checkpoint; upload a plain LLM with its own push_to_hub")
    quiet()
    from depthup.model import hub
    from depthup.model.export import export_base, export_llm, export_standalone, is_plain

    moved = {"base": options.base, "encoder": options.encoder}
    if options.drop_layers:
        export_base(options.checkpoint, options.output_dir, options.base)
    elif options.llm:
        export_llm(options.checkpoint, options.output_dir, **moved)
    else:
        export_standalone(options.checkpoint, options.output_dir, **moved, max_shard_size=options.max_shard_size)
    loads = "AutoModelForCausalLM.from_pretrained" if options.drop_layers or options.llm else "depthup.load"
    print(f"Exported to {options.output_dir}: {loads} loads it")
    if not options.drop_layers and not options.llm and is_plain(options.output_dir):
        print("--llm writes its text LLM alone, which AutoModelForCausalLM.from_pretrained loads without depthup")
    if options.push_to_hub:
        print(f"Uploaded: {hub.push(Path(options.output_dir), options.push_to_hub)}")
    return 0
