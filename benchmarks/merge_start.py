"""Is W_merge = [I; 0] better than zero and than random? E-Branchformer layers of scope `all`, trained from each start.

    python benchmarks/merge_start.py recipes/fsdd.yaml --text ../shared/text/wikitext2_test.txt --dtype bfloat16

Runs of one seed see the same batches, and all but W_merge starts alike. Validation loss and WER are of the recipe's
`data.validation` after the last step. The same command goes on where it was interrupted; further words are changes to
the recipe.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest.mock import patch

from report import save

from depthup.api import evaluate, load, train
from depthup.model.layers import e_branchformer
from depthup.model.layers.kind import zero_

STARTS = {"[I; 0]": "copy", "zero": "copy", "random": "random_merge"}
"""What `upscale.e_branchformer.init` is for each; zero is no start that a recipe can name."""
FIXED = (
    *("--upscale.layer=e_branchformer", "--upscale.scope=all"),
    *("--augment.speed=[]", "--augment.tilt_db=0", "--augment.gain_db=[]", "--augment.noise=null"),
)


class ZeroMerge(e_branchformer.EBranchformerBlock):
    """The block with a merge projection of zeros: speech takes nothing of attention or cgMLP."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        zero_(self.merge_proj)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--clips", type=int, default=100, help="clips that loss and WER are measured on")
    parser.add_argument("--text", help="a text file, to see what hearing cost reading")
    parser.add_argument("--output", type=Path, default=Path("runs/merge-start"))
    options, overrides = parser.parse_known_args()
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for start in options.starts:
            rows.append({"start": start, "seed": seed, **measured(options, overrides, start, seed)})
            print(json.dumps({key: value for key, value in rows[-1].items() if key != "curve"}), flush=True)
            save(options.output / "merge-start.json", rows)
    print(table(rows))


def measured(options: argparse.Namespace, overrides: list[str], start: str, seed: int) -> dict[str, Any]:
    """Training loss by step; loss, WER and perplexity at the end. Kept beside the run."""
    run = options.output / f"{list(STARTS).index(start)}-{STARTS[start]}-{seed}"
    kept = run / "measured.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    steps = [f"--train.max_steps={options.steps}", f"--train.eval_steps={options.steps}"]
    steps += [f"--train.save_steps={options.steps}", f"--train.eval_clips={options.clips}"]
    given = [f"--seed={seed}", f"--output_dir={run}", f"--upscale.e_branchformer.init={STARTS[start]}"]
    block = ZeroMerge if start == "zero" else e_branchformer.EBranchformerBlock
    with patch.object(e_branchformer, "EBranchformerBlock", block):
        train(options.recipe, [*FIXED, *steps, *overrides, *given])
    told = json.loads((run / "training.json").read_text(encoding="utf-8"))
    curve = {entry["step"]: entry["loss"] for entry in told["history"] if "loss" in entry}
    found = {"curve": curve, "loss": told["history"][-1]["eval_loss"], "wer": told["history"][-1]["eval_wer"]}
    if options.text:
        drift = evaluate(*load(run), text=options.text).drift[options.text]
        found |= {"perplexity_base": drift.perplexity_base, "perplexity": drift.perplexity, "kl": drift.kl}
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds with standard deviations; loss beside [I; 0] is seed by seed."""
    first = {row["seed"]: row["loss"] for row in rows if row["start"] == "[I; 0]"}
    lines = ["| start | training loss, first to last | validation loss | above [I; 0] | WER, % | perplexity |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for start in dict.fromkeys(row["start"] for row in rows):
        own = [row for row in rows if row["start"] == start]
        curve = [f"{mean(row['curve'][step] for row in own):.2f}" for step in own[0]["curve"]]
        cells = [
            ", ".join(curve),
            _spread([row["loss"] for row in own], 3),
            _spread([row["loss"] - first[row["seed"]] for row in own if row["seed"] in first], 3),
            _spread([100 * row["wer"] for row in own], 1),
            _spread([row["perplexity"] for row in own if "perplexity" in row], 2),
        ]
        lines.append(f"| {start} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else ""
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
