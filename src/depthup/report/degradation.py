"""What adaptation cost on text tasks, in points, relative to the base, and relative to the base above chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from rich.console import Console
from rich.table import Table

Loss = dict[str, Optional[float]]
"""`points` with their `stderr`, `relative` and `above_chance`: fractions, positive where the adapted model is worse."""


def degradation(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Loss of each task and of their plain mean.

    Args:
        tasks: for each task `score`, `base` and `chance` as fractions.

    Returns {"tasks": {task: loss}, "mean": loss} where a loss has `points` (base - score), their `stderr` where tasks
    tell their `lost_stderr`, `relative` (points / base) and `above_chance` (points / (base - chance)). A ratio is None
    where the base is no better than zero or chance, and the mean of no tasks is None throughout. The mean's ratios are
    ratios of means, so that a task near chance cannot outweigh the others.
    """
    return {"tasks": {name: _loss([task]) for name, task in tasks.items()}, "mean": _loss(list(tasks.values()))}


def _loss(tasks: Sequence[Mapping[str, Any]]) -> Loss:
    if not tasks:
        return dict.fromkeys(("points", "stderr", "relative", "above_chance"))
    base = _mean([task["base"] for task in tasks])
    points = _mean([task["base"] - task["score"] for task in tasks])
    above = _mean([task["base"] - task["chance"] for task in tasks])
    errors = [task["lost_stderr"] for task in tasks if task.get("lost_stderr") is not None]
    return {
        "points": points,
        "stderr": math.hypot(*errors) / len(tasks) if len(errors) == len(tasks) else None,
        "relative": points / base if base > 0 else None,
        "above_chance": points / above if above > 0 else None,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def print_tasks(tasks: Mapping[str, Mapping[str, Any]], console: Console | None = None) -> None:
    """Print one line per task, as kept in `evaluation.json`, and their mean. `identical`: the score is the base's."""
    table = Table(title="Text tasks, accuracy in %", title_justify="left")
    table.add_column("task")
    for column in ("questions", "base", "adapted", "points\nlost", "of the\nbase", "above\nchance"):
        table.add_column(column, justify="right")
    losses = degradation(tasks)
    for name, task in tasks.items():
        adapted = "identical" if task["identical"] else f"{100 * task['score']:.1f} ± {100 * task['stderr']:.1f}"
        base = f"{100 * task['base']:.1f}"
        table.add_row(name, str(task["questions"]), base, adapted, *_shown(losses["tasks"][name]))
    base, adapted = (f"{100 * _mean([task[key] for task in tasks.values()]):.1f}" for key in ("base", "score"))
    table.add_section()
    table.add_row("mean", "", base, adapted, *_shown(losses["mean"]))
    (console or Console()).print(table)


def _shown(loss: Loss) -> list[str]:
    """Points and percentages; a dash where there is no ratio."""
    points, stderr, *ratios = loss.values()
    assert points is not None
    shown = f"{100 * points:.1f}" + (f" ± {100 * stderr:.1f}" if stderr else "")
    return [shown, *("-" if ratio is None else f"{100 * ratio:.1f} %" for ratio in ratios)]
