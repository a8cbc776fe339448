"""How many hours of speech a method needs: WER on unseen speakers over hours of training speech, with a picture.

    python benchmarks/hours.py recipes/english.yaml --hours 0.1667 1 6.5 --output runs/hours \\
        --test ../shared/speech/speechocean/test.jsonl --test ../shared/speech/commonvoice-en/test.jsonl \\
        --text ../shared/text/wikitext2_test.txt --dtype bfloat16

For each amount: whole speakers are drawn until it is reached; a front end learns alone; then every method starts from
it (`init_part: front_end`), each at the rate given here. Steps are the recipe's at --full-hours and shrink with the
root of the hours, to --least-steps for the LLM's part. The same command goes on where it was interrupted; further words
are changes to the recipe.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

from depthup.api import evaluate, load, train
from depthup.config import Recipe
from depthup.recipe import load_recipe

TEXT = "text"
BESIDE = 1.08
"""By how much the next method's points stand further right."""
METHODS = {
    "layers": ["--method=depth_upscale", "--train.learning_rate=1.5e-3"],
    "lora": ["--method=lora", "--lora.speech_only=true", "--train.learning_rate=1.5e-3"],
    "full": ["--method=full", "--train.learning_rate=2e-4"],
}
"""What each changes in the recipe; rates searched with all hours (docs/paper.md), not anew for each amount."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--hours", type=float, nargs="+", default=[1 / 6, 1.0, 6.5])
    parser.add_argument("--full-hours", type=float, default=6.5, help="hours that the recipe's own steps are for")
    parser.add_argument("--least-steps", type=int, default=60, help="steps with the LLM, however few the hours")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--front-end", help="a trained front end to start from for --full-hours")
    parser.add_argument("--test", action="append", required=True)
    parser.add_argument("--text", help="a text file, to see what hearing cost reading")
    parser.add_argument("--clips", type=int, help="most clips measured of each test set; all without it")
    parser.add_argument("--output", type=Path, default=Path("runs/hours"))
    options, overrides = parser.parse_known_args()
    recipe = load_recipe(options.recipe, overrides)
    found = []
    for hours in options.hours:
        share = math.sqrt(min(1.0, hours / options.full_hours))
        folder = options.output / f"{hours:.3g}h"
        whole = hours >= options.full_hours
        data = [] if whole else [f"--data.train={subset(recipe, hours, folder)}"]
        given = [*overrides, *data]
        front_end = options.front_end if whole and options.front_end else None
        if front_end is None:
            steps = [f"--train.front_end_steps={round(recipe.train.front_end_steps * share)}", "--train.max_steps=1"]
            front_end = str(train(options.recipe, [*given, *steps, f"--output_dir={folder / 'front-end'}"]))
        for method in options.methods:
            start = [f"--init_from={front_end}", "--init_part=front_end", "--train.front_end_steps=0"]
            steps = [f"--train.max_steps={max(options.least_steps, round(recipe.train.max_steps * share))}"]
            run = folder / method
            train(options.recipe, [*given, *start, *steps, *METHODS[method], f"--output_dir={run}"])
            found.append({"hours": hours, "method": method, **measured(run, options.test, options.text, options.clips)})
            (options.output / "hours.json").write_text(json.dumps(found, indent=1) + "\n")
            draw(found, options.output / "hours.png")


def subset(recipe: Recipe, hours: float, folder: Path) -> Path:
    """A manifest of speakers drawn at random until their clips last so long; the last one is cut off there."""
    sources = [recipe.data.train] if isinstance(recipe.data.train, str) else recipe.data.train
    speakers: dict[Any, list[dict[str, Any]]] = {}
    for source in map(Path, sources):
        for line in source.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            row["audio"] = str((source.parent / row["audio"]).resolve())
            speakers.setdefault((source.parent.name, row.get("speaker")), []).append(row)
    names = sorted(speakers, key=str)
    random.Random(recipe.seed).shuffle(names)
    rows, left = [], hours * 3600
    for row in (row for name in names for row in speakers[name]):
        if left > 0:
            rows.append(row)
            left -= row["duration"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def measured(run: Path, tests: list[str], text: str | None, clips: int | None) -> dict[str, Any]:
    """WER and its interval on each test, perplexity of a text before and after; kept beside the run."""
    kept = run / "hours.json"
    told = json.loads(kept.read_text()) if kept.is_file() else {}
    missing = [test for test in tests if test not in told]
    if missing or (text and TEXT not in told):
        model, processor = load(run)
        found = evaluate(model, processor, missing, text if TEXT not in told else None, limit=clips)
        found.keep(run)  # for `depthup compare`
        told |= {test: [report.wer, *report.interval] for test, report in found.asr.items()}
        for report in found.drift.values():
            told[TEXT] = [report.perplexity_base, report.perplexity]
        kept.write_text(json.dumps(told))
    return told


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """WER over hours, a line for each method, a panel for each test, and one for the text."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tests = [key for key in found[0] if key not in ("hours", "method", TEXT)]
    told = [*tests, TEXT] if all(TEXT in row for row in found) else tests
    figure, panels = pyplot.subplots(1, len(told), figsize=(4.5 * len(told), 3.8), squeeze=False)
    for panel, test in zip(panels[0], told, strict=True):
        for place, method in enumerate(dict.fromkeys(row["method"] for row in found)):
            rows = sorted((row for row in found if row["method"] == method), key=lambda row: row["hours"])
            hours = [row["hours"] * BESIDE**place for row in rows]  # beside each other, not on top
            if test == TEXT:
                panel.plot(hours, [100 * (row[TEXT][1] / row[TEXT][0] - 1) for row in rows], marker="o", label=method)
                continue
            wer, low, high = zip(*([100 * value for value in row[test]] for row in rows), strict=True)
            errors = [[w - x for w, x in zip(wer, low, strict=True)], [x - w for w, x in zip(wer, high, strict=True)]]
            panel.errorbar(hours, wer, errors, marker="o", capsize=3, label=method)
        panel.set_xscale("log")
        ticks = sorted({row["hours"] for row in found})
        panel.set_xticks(ticks, [f"{hours:.2g}" for hours in ticks])
        panel.minorticks_off()
        panel.set_title("text, forgotten" if test == TEXT else Path(test).parent.name)
        panel.set_xlabel("hours of training speech")
        panel.set_ylabel("perplexity, % above the base's" if test == TEXT else "WER, %")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
