"""A comparison as tables: made once as cells, shown as Markdown, HTML or on the terminal."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from depthup.report.compare import Comparison, Run
from depthup.train.progress import clock

NOT_MEASURED = "–"


@dataclass
class Cell:
    """What a cell shows, and what it is sorted by; None was not measured."""

    text: str = NOT_MEASURED
    value: Union[float, str, None] = None


@dataclass
class Table:
    """Rows of cells under a header."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    caption: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [any(isinstance(row[i].value, (int, float)) for row in self.rows) for i in range(len(self.header))]


Column = tuple[str, Callable[[Run], Cell]]


def tables(comparison: Comparison) -> list[Table]:
    """Speech, text and cost; text is left out where no run was measured on any."""
    found = [_speech(comparison), _text(comparison), _cost(comparison)]
    return [table for table in found if len(table.header) > 1]


def markdown(comparison: Comparison) -> str:
    """The whole comparison as GitHub Markdown."""
    lines = ["# Runs compared", ""]
    lines += [f"> **Note.** {_escape(note)}\n" for note in comparison.notes]
    lines += [f"{_escape(finding)}\n" for finding in comparison.findings]
    for table in tables(comparison):
        lines += [f"## {table.title}", ""]
        lines += [_line(table.header), _line(["---:" if right else "---" for right in table.numeric], escape=False)]
        lines += [_line([cell.text for cell in row]) for row in table.rows]
        lines += ["", table.caption, ""] if table.caption else [""]
    return "\n".join(lines).rstrip() + "\n"


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the most telling columns, notes and findings."""
    console = console or Console()
    tests = comparison.names("asr")
    table = RichTable(title="Runs compared", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("run\nhow", overflow="fold", ratio=1)
    for title in (
        "of full\n%",
        *(f"WER %\n{test}" for test in tests),
        "text\nlost",
        "text\nsame",
        "step\ns",
        "peak\nGB",
    ):
        table.add_column(Text(title), justify="right", overflow="fold")
    for run in comparison.runs:
        _, method, *layer_and_scope = (make(run) for _, make in _identity())
        how = [method.text, *(cell.text for cell in layer_and_scope if cell.value)]
        table.add_row(
            Text.assemble(run.label, "\n", (", ".join(how), "dim")),
            _cell(run.share_of_full, _points).text,
            *(_terminal_wer(run, test) for test in tests),
            _cell(run.degradation["mean"]["points"], _points).text,
            _yes(run.identical).text,
            _cell(run.step_seconds, lambda s: f"{s:.2f}").text,
            _cell(run.peak_memory_gb, lambda gb: f"{gb:.1f}").text,
        )
    console.print(table)
    for note in comparison.notes:
        console.print(Text(f"Note. {note}", style="yellow"))
    for finding in comparison.findings:
        console.print(Text(finding))


def _terminal_wer(run: Run, test: str) -> Text:
    if not (asr := run.asr[test]):
        return Text(NOT_MEASURED)
    low, high = asr["interval"]
    return Text.assemble(f"{100 * asr['wer']:.1f}\n", (f"{100 * low:.1f}-{100 * high:.1f}", "dim"))


def _identity() -> list[Column]:
    return [
        ("run", lambda run: Cell(run.label, run.label)),
        ("method", lambda run: _cell(run.method and run.method + ", speech only" * run.speech_only)),
        ("layer", lambda run: _cell(run.layer)),
        ("scope", lambda run: _cell(run.scope if run.layer else None)),
    ]


def _speech(comparison: Comparison) -> Table:
    columns = [*_identity(), ("hours of audio", lambda run: _cell(run.audio_hours, lambda h: f"{h:.2f}"))]
    for test in comparison.names("asr"):
        columns.append((f"WER {test}", _wer(test)))
        columns += [(f"{field} gap {test}", _gap(test, field)) for field in group_fields(comparison, test)]
    caption = "WER with its 95 % interval. A gap is between the values with the lowest and the highest WER, in points."
    for name in comparison.names("instructions"):
        columns += [(f"answers as its base reads, {name}", _answers(name)), (f"KL {name}", _answer_kl(name))]
    return _table("Speech", columns, comparison, caption if comparison.names("asr") else "")


def group_fields(comparison: Comparison, test: str) -> list[str]:
    """Fields that divide a test set: some run has WERs for two values of them or more."""
    groups = [(run.asr[test] or {}).get("groups") or {} for run in comparison.runs]
    return list(dict.fromkeys(name for group in groups for name, field in group.items() if len(field["values"]) > 1))


def _text(comparison: Comparison) -> Table:
    columns: list[Column] = [_identity()[0]]
    tasks = comparison.names("tasks")
    columns += [(task, _score(task)) for task in tasks]
    if tasks:
        columns += [
            ("mean lost, points", _lost),
            ("relative to base", _mean("relative", _percent)),
            ("above chance", _mean("above_chance", _percent)),
            (
                "relative to full",
                _mean("relative_to_full", lambda change: f"{100 * change:+.0f} %" if change else "0 %"),
            ),
        ]
    for text in comparison.names("drift"):
        columns += [(f"KL {text}", _kl(text)), (f"perplexity {text}", _perplexity(text))]
    if len(columns) > 1:
        columns.append(("logits identical", lambda run: _yes(run.identical)))
    caption = (
        "Scores in % with one standard error. Lost: the base's score minus the run's, in points with the standard "
        "error of that difference, as a share of the base's score, of its part above chance, and against the loss of "
        "full fine-tuning."
    )
    table = _table("Text", columns, comparison, caption if tasks else "")
    for base in reversed(comparison.bases if tasks else []):
        scores = [_cell(base.scores[task], lambda score: f"{100 * score:.1f}") for task in tasks]
        name = f"base: {base.name}"
        table.rows.insert(0, [Cell(name, name), *scores, *(Cell() for _ in columns[1 + len(tasks) :])])
    return table


def _cost(comparison: Comparison) -> Table:
    columns: list[Column] = [
        _identity()[0],
        ("inserted layers", lambda run: _cell(run.num_layers)),
        ("trainable", lambda run: _cell(run.trainable, lambda n: f"{n:,}")),
        ("of full", lambda run: _cell(run.share_of_full, _percent)),
        ("learning rate", lambda run: _cell(run.learning_rate, lambda rate: f"{rate:g}")),
        ("steps", lambda run: _cell(run.steps)),
        ("step time", lambda run: _cell(run.step_seconds, lambda s: f"{s:.2f} s")),
        ("peak memory", lambda run: _cell(run.peak_memory_gb, lambda gb: f"{gb:.1f} GB")),
        ("wall time", lambda run: _cell(run.wall_seconds, clock)),
        ("device", lambda run: _cell(run.device)),
    ]
    return _table("Cost", columns, comparison)


def _table(title: str, columns: list[Column], comparison: Comparison, caption: str = "") -> Table:
    rows = [[make(run) for _, make in columns] for run in comparison.runs]
    return Table(title, [name for name, _ in columns], rows, caption)


def _cell(value: Any, show: Callable[[Any], str] = str) -> Cell:
    return Cell() if value is None else Cell(show(value), value)


def _yes(value: bool | None) -> Cell:
    return _cell(value if value is None else "yes" if value else "no")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _points(fraction: float) -> str:
    """Points, or %, of a fraction; 0 without decimals is exactly 0."""
    return f"{100 * fraction:.1f}" if fraction else "0"


def _wer(test: str) -> Callable[[Run], Cell]:
    def cell(run: Run) -> Cell:
        if not (asr := run.asr[test]):
            return Cell()
        low, high = asr["interval"]
        return Cell(f"{_percent(asr['wer'])} ({100 * low:.1f} to {100 * high:.1f})", asr["wer"])

    return cell


def _gap(test: str, field: str) -> Callable[[Run], Cell]:
    def cell(run: Run) -> Cell:
        found = ((run.asr[test] or {}).get("groups") or {}).get(field)
        if not found:
            return Cell()
        ends = (f"{name} {_percent(found['values'][name]['wer'])}" for name in (found["best"], found["worst"]))
        return Cell(f"{_points(found['gap'])} ({' to '.join(ends)})", found["gap"])

    return cell


def _score(task: str) -> Callable[[Run], Cell]:
    return lambda run: _cell(
        run.tasks[task] and run.tasks[task]["score"],
        lambda score: f"{100 * score:.1f} ± {100 * run.tasks[task]['stderr']:.1f}",
    )


def _mean(key: str, show: Callable[[float], str]) -> Callable[[Run], Cell]:
    return lambda run: _cell(run.degradation["mean"][key], show)


def _lost(run: Run) -> Cell:
    points, stderr = (run.degradation["mean"][key] for key in ("points", "stderr"))
    return _cell(points, lambda lost: _points(lost) + (f" ± {_points(stderr)}" if stderr else ""))


def _answers(name: str) -> Callable[[Run], Cell]:
    return lambda run: _cell(run.instructions[name] and run.instructions[name]["match"], _percent)


def _answer_kl(name: str) -> Callable[[Run], Cell]:
    return lambda run: _cell(run.instructions[name] and run.instructions[name]["kl"], lambda kl: f"{kl:.3g}")


def _kl(text: str) -> Callable[[Run], Cell]:
    return lambda run: _cell(run.drift[text] and run.drift[text]["kl"], lambda kl: f"{kl:.3g}")


def _perplexity(text: str) -> Callable[[Run], Cell]:
    def cell(run: Run) -> Cell:
        if not (drift := run.drift[text]):
            return Cell()
        return Cell(f"{drift['perplexity_base']:.3f} → {drift['perplexity']:.3f}", drift["perplexity"])

    return cell


def _line(cells: list[str], escape: bool = True) -> str:
    return f"| {' | '.join(_escape(cell) if escape else cell for cell in cells)} |"


def _escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", html.escape(" ".join(text.split()), quote=False))
