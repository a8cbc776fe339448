"""FSDP2 with one process against training without it: the same losses, and what sharding itself costs.

    python benchmarks/sharding.py recipes/paper/smollm2-360m/e_branchformer.yaml --steps 12
    python benchmarks/sharding.py --small                # a tiny base, on a CPU told that it is a GPU

The base has the recipe's shape and random weights, and a tokenizer of bytes; recordings are tones. Through the shipped
configuration, Accelerate and the Trainer, as `accelerate launch` runs them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from report import save
from transformers import AutoModelForCausalLM

from depthup.model.base import load_base_config
from depthup.recipe import load_recipe

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = REPOSITORY / "tests"
LAUNCH = ["-m", "accelerate.commands.launch", "--num_processes=1", "--main_process_port=0"]
LAUNCH += [f"--config_file={REPOSITORY / 'recipes/accelerate/fsdp2.yaml'}"]
sys.path.insert(0, str(TESTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", help="whose base, method and layers are taken")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="depthup-sharding-") as folder:
        recipe = made(Path(folder), options)
        whole, sharded = Path(folder) / "whole", Path(folder) / "sharded"
        spawn("-m", "depthup.cli", "train", str(recipe), f"--output_dir={whole}")
        words = [str(recipe), f"--output_dir={sharded}"]
        on_cpu = [str(TESTS / "fsdp_on_cpu.py"), json.dumps(words)]
        spawn(*LAUNCH, *(["-m", "depthup.cli", "train", *words] if torch.cuda.is_available() else on_cpu))
        rows = [told(run) for run in (whole, sharded)]
    first, second = (row.pop("losses") for row in rows)
    apart = max(abs(a - b) / abs(a) for a, b in zip(first, second, strict=True))
    print("| | s per step | peak GB |\n|---|---:|---:|")
    for name, row in zip(("one process", "the same under FSDP2"), rows, strict=True):
        row.update(way=name, loss_difference=apart)
        print(f"| {name} | {row['step_seconds']:.3f} | {row['peak_memory_gb']:.2f} |")
    print(f"\nLosses of {len(first)} steps differ by at most {apart:.1e}.")
    save(options.json, rows)


def made(folder: Path, options: argparse.Namespace) -> Path:
    """A recipe with base and recordings of its own below `folder`."""
    from small_run import save_recipe  # of the tests

    recipe = save_recipe(folder)
    told = yaml.safe_load(recipe.read_text())
    told["augment"] = {}
    told["train"] |= {"max_steps": options.steps, "save_steps": 10_000, "logging_steps": 1}
    if not options.small:
        like = load_recipe(options.recipe)
        config = load_base_config(like.configs.get(like.base, like.base))
        base = AutoModelForCausalLM.from_config(config)
        base.generation_config.eos_token_id = base.generation_config.bos_token_id = 2  # of the tokenizer there
        base.save_pretrained(folder / "base")
        told["method"], told["upscale"] = like.method, dataclasses.asdict(like.upscale)
        told["data"] |= {"batch_seconds": options.batch_seconds}
    recipe.write_text(yaml.safe_dump(told))
    return recipe


def spawn(*words: str) -> None:
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr)


def told(run: Path) -> dict[str, Any]:
    """Of a finished run."""
    record = json.loads((run / "training.json").read_text())
    losses = [entry["loss"] for entry in record["history"] if "loss" in entry]
    return {name: record[name] for name in ("step_seconds", "peak_memory_gb")} | {"losses": losses}


if __name__ == "__main__":
    main()
