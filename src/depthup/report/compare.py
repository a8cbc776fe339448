"""Several runs side by side: what each heard, what that cost its text, and what it took."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Union

from depthup.errors import UserError
from depthup.evaluate.paired import EACH, difference
from depthup.model.stored import INDEX, WEIGHTS, shapes
from depthup.recipe import RECIPE, load_recipe
from depthup.report.degradation import degradation


@dataclass
class Run:
    """One run. What was not measured is None, also inside `asr`, `drift` and `tasks`, which name what any run has."""

    label: str
    path: str
    base: str | None
    base_hash: str | None
    base_quantization: str | None
    encoder: str | None
    method: str | None
    speech_only: bool
    """LoRA that is switched off for text."""
    layer: str | None
    scope: str | None
    num_layers: int | None
    trainable: int | None
    total: int | None
    share_of_full: float | None
    learning_rate: float | None
    speech_learning_rate: float | None
    steps: int | None
    ctc_steps: int | None
    audio_hours: float | None
    step_seconds: float | None
    peak_memory_gb: float | None
    wall_seconds: float | None
    device: str | None
    asr: dict[str, Any]
    drift: dict[str, Any]
    tasks: dict[str, Any]
    instructions: dict[str, Any]
    degradation: dict[str, Any]
    """As `depthup.report.degradation` gives it; its mean has `relative_to_full` too, the first `full` run's mean
    being 0 and no degradation being -1."""
    identical: bool | None
    """Whether the text logits were the base's bit for bit wherever they were looked at."""
    history: list[dict[str, Any]]


@dataclass
class Base:
    """A base model with its own score on each task, None where no run tells."""

    name: str
    scores: dict[str, float | None]


@dataclass
class Comparison:
    """Runs in the order given, with what a reader must know before comparing them."""

    notes: list[str]
    """Why numbers may not be comparable."""
    findings: list[str]
    """Which run has the lowest WER on each test set, and which ones are not told apart from it."""
    bases: list[Base]
    runs: list[Run]

    def names(self, part: str) -> list[str]:
        """The test sets (`asr`), texts (`drift`), `tasks` or `instructions` that some run was measured on."""
        return list(getattr(self.runs[0], part))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def compare(runs: Sequence[Union[str, Path]]) -> Comparison:
    """Gather what is known of each run directory.

    Raises UserError where there is no run, a directory is given twice, holds no run or a file that is damaged.
    """
    paths = [Path(run).expanduser().resolve() for run in runs]
    if not paths:
        raise UserError("compare: no run given; give the output directories of trainings")
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path}: is given twice; give each run once")
    found = []
    for path in paths:
        try:
            found.append(_read_run(path, _label(path, paths)))
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: what is kept of this run is damaged ({error}); copy it again") from error
    for part in ("asr", "drift", "tasks", "instructions"):
        names = dict.fromkeys(name for run in found for name in getattr(run, part))
        for run in found:
            setattr(run, part, {name: getattr(run, part).get(name) for name in names})
    _relate_to_full(found)
    findings = _findings(found)
    for run in found:
        run.asr = {test: told and {k: v for k, v in told.items() if k != EACH} for test, told in run.asr.items()}
    return Comparison(_notes(found), findings, _bases(found), found)


def _label(path: Path, paths: Iterable[Path]) -> str:
    """A directory's name, with as many parents as tell it from the other directories."""
    depth, others = 1, [other.parts for other in paths if other != path]
    while any(other[-depth:] == path.parts[-depth:] for other in others):
        depth += 1
    return "/".join(path.parts[-depth:])


def _read_run(directory: Path, label: str) -> Run:
    training, evaluation, config = (_read_json(directory / f"{n}.json") for n in ("training", "evaluation", "config"))
    recipe = directory / RECIPE
    settings = asdict(load_recipe(recipe)) if recipe.is_file() else {}
    if config.get("model_type") == "depthup":
        settings |= config
    if not (training or evaluation or settings):
        raise UserError(f"{directory}: holds no run of depthup; give the output directory of a training")
    if (directory / WEIGHTS).is_file() or (directory / INDEX).is_file():  # a training that goes on has none yet
        shapes(directory)
    rates = settings.get("train") or {}
    plan = training.get("plan") or _planned(settings)
    tasks = evaluation.get("tasks") or {}
    drift = evaluation.get("drift") or {}
    looked_at = [part["identical"] for part in [*tasks.values(), *drift.values()]]
    return Run(
        label=label,
        path=str(directory),
        base=training.get("base") or settings.get("base"),
        base_hash=settings.get("base_hash"),
        base_quantization=settings.get("base_quantization"),
        encoder=(settings.get("encoder") or {}).get("name"),
        method=plan.get("method"),
        speech_only="lora" in plan.get("method", "") and bool((settings.get("lora") or {}).get("speech_only")),
        **{key: plan.get(key) for key in ("layer", "scope", "num_layers", "trainable", "total", "share_of_full")},
        **{key: training.get(key, rates.get(key)) for key in ("learning_rate", "speech_learning_rate")},
        **{
            key: training.get(key)
            for key in ("steps", "ctc_steps", "audio_hours", "step_seconds", "peak_memory_gb", "wall_seconds", "device")
        },
        asr={test: told for test, told in (evaluation.get("asr") or {}).items() if told["wer"] is not None},
        drift=drift,
        tasks=tasks,
        instructions=evaluation.get("instructions") or {},
        degradation=degradation(tasks),
        identical=all(looked_at) if looked_at else None,
        history=training.get("history") or [],
    )


def _read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object, empty where there is no file; NaN and infinity, which JSON lacks, become None."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); write it again or remove it") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is no JSON object; write it again or remove it")
    return found


def _planned(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As much of a plan as a run's settings tell."""
    if "method" not in settings:
        return {}
    upscale = settings["upscale"] if "depth_upscale" in settings["method"] else {"scope": "all", "num_layers": 0}
    return {"method": settings["method"], **{key: upscale.get(key) for key in ("layer", "scope", "num_layers")}}


def _relate_to_full(runs: Sequence[Run]) -> None:
    """Add `relative_to_full` to each run's mean degradation; None where full fine-tuning lost nothing to relate to."""
    full = next((run for run in runs if run.method == "full"), None)
    lost = full.degradation["mean"]["points"] if full else None
    for run in runs:
        mean = run.degradation["mean"]
        comparable = full and lost and lost > 0 and measured(run.tasks) == measured(full.tasks)
        mean["relative_to_full"] = mean["points"] / lost - 1 if comparable else None


def measured(part: Mapping[str, Any]) -> list[str]:
    """The names in a run's `asr`, `drift` or `tasks` that were measured."""
    return [name for name, found in part.items() if found is not None]


def _bases(runs: Sequence[Run]) -> list[Base]:
    bases: dict[str | None, Base] = {}
    for run in runs:
        name = (run.base or "unknown").rstrip("/").split("/")[-1]
        base = bases.setdefault(_base_key(run, runs), Base(name, dict.fromkeys(run.tasks)))
        for task in measured(run.tasks):
            if base.scores[task] is None:
                base.scores[task] = run.tasks[task]["base"]
    return list(bases.values())


def _base_key(run: Run, runs: Sequence[Run]) -> str | None:
    """What tells bases apart: the hash of their weights where every run has one, else their name."""
    return run.base_hash if all(other.base_hash for other in runs) else run.base


def _notes(runs: Sequence[Run]) -> list[str]:
    first = runs[0]
    facts: dict[str, list[Any]] = {
        "Different base models": [_base_key(run, runs) and run.base for run in runs],
        "Bases packed into different formats, which their text scores and memory depend on": [
            run.base_quantization for run in runs
        ],
        "Different speech encoders": [run.encoder for run in runs],
        "Trained on different devices, which step time and memory depend on": [run.device for run in runs],
        "Mean text degradation is over different tasks": [", ".join(measured(run.tasks)) or None for run in runs],
    }
    if len({_base_key(run, runs) for run in runs}) == 1:
        del facts["Different base models"]
    for test in first.asr:
        counts = [(run.asr[test] or {}).get("counts") for run in runs]
        facts[f"{test}: different test clips"] = [
            c and f"{c['clips']} clips with {c['reference_words']} words" for c in counts
        ]
    for text in first.drift:
        facts[f"{text}: different lengths of text"] = [
            run.drift[text] and f"{run.drift[text]['tokens']} tokens" for run in runs
        ]
    for task in first.tasks:
        facts[f"{task}: different numbers of questions"] = [
            run.tasks[task] and f"{run.tasks[task]['questions']} questions" for run in runs
        ]
    return [note for what, values in facts.items() if (note := _note(what, values, runs))]


def _note(what: str, values: Sequence[Any], runs: Sequence[Run]) -> str | None:
    """One sentence if the runs' values, None being unknown, are not all the same."""
    having: dict[Any, list[str]] = {}
    for value, run in zip(values, runs, strict=True):
        if value is not None:
            having.setdefault(value, []).append(run.label)
    told = "; ".join(f"{value} ({', '.join(labels)})" for value, labels in having.items())
    return f"{what}: {told}." if len(having) > 1 else None


def _findings(runs: Sequence[Run]) -> list[str]:
    found = []
    for test in runs[0].asr:
        scored = [run for run in runs if run.asr[test]]
        if len(scored) < 2:
            continue
        best = min(scored, key=lambda run: run.asr[test]["wer"])
        others = [run for run in scored if run is not best]
        told = [f"Lowest WER on {test}: {best.label} ({100 * best.asr[test]['wer']:.1f} %)."]
        found.append(" ".join([*told, *(_beside(best, run, test) for run in others)]))
    return found


def _beside(best: Run, other: Run, test: str) -> str:
    """By a paired bootstrap where both heard the same clips, else by whether the intervals overlap."""
    ours, theirs = best.asr[test], other.asr[test]
    paired = difference(ours.get(EACH) or {}, theirs.get(EACH) or {})
    if paired is None:
        apart = theirs["interval"][0] > ours["interval"][1]
        return f"{other.label}: " + ("its interval lies above." if apart else "not told apart by these intervals.")
    low, high = (100 * bound for bound in paired.interval)
    told = "higher" if paired.certain else "not told apart"
    interval = f"{low:+.1f} to {high:+.1f}, paired bootstrap over {paired.over}"
    return f"{other.label}: {told}, {100 * paired.difference:+.1f} points ({interval})."
