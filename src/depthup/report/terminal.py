"""Summaries of models and evaluations on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from depthup.evaluate.instructions import InstructionReport
from depthup.evaluate.scores import AsrReport, FieldScore
from depthup.evaluate.text import TextReport
from depthup.model.summary import ModelSummary

MOST_ROWS = 20


def print_summary(summary: ModelSummary, console: Console | None = None) -> None:
    """Print what a model is made of, equal neighbours on one line, and how much of it trains."""
    console = console or Console()
    table = Table(title=f"Model: {summary.method}, scope {summary.scope}", title_justify="left")
    table.add_column("place")
    table.add_column("what")
    table.add_column("parameters", justify="right")
    table.add_column("trains", justify="right")
    for places, kind, parameters, trainable in _runs(summary.rows):
        trains = f"{trainable:,}" if trainable else "frozen"
        table.add_row(places, kind, f"{parameters:,}", trains, style="bold" if trainable else "dim")
    console.print(table)
    console.print(f"Parameters {summary.total:,}, of which {summary.trainable:,} train: ", end="")
    console.print(f"{summary.share_of_full:.1%} of full fine-tuning's.")


def _runs(rows: list[tuple[str, str, int, int]]) -> Iterator[tuple[str, str, int, int]]:
    """Neighbouring layers of one kind and size together, as `layers 3-7`, with the sum of their parameters."""
    for (place, *_), run in groupby(rows, lambda r: (r[0].split()[0], r[1].rstrip("0123456789"), r[2], r[3])):
        group = list(run)
        first, last = group[0], group[-1]
        several = len(group) > 1
        number = f"{first[0].split()[-1]}-{last[0].split()[-1]}"
        base = f"-{last[1].split()[-1]}" if several and last[1][-1].isdigit() else ""
        yield (
            f"{place}s {number}" if several else first[0],
            first[1].replace("base layer ", "base layers ") + base if base else first[1],
            sum(r[2] for r in group),
            sum(r[3] for r in group),
        )


def print_asr(report: AsrReport, name: str = "", console: Console | None = None) -> None:
    """Print error rates, counts and one table per field with the gap between its best and worst value."""
    console = console or Console()
    title = Text(f"Speech recognition, {name}" if name else "Speech recognition")
    table = Table(title=title, show_header=False, title_justify="left")
    over = " over speakers" if report.interval_over == "speakers" else ""
    table.add_row("WER", f"{_percent(report.wer)}  (95 % interval{over} {_range(report.interval)})")
    table.add_row("CER", _percent(report.cer))
    edits = f"{report.substitutions} substituted, {report.deletions} deleted, {report.insertions} inserted"
    characters = all(how.unit == "character" for how in report.languages.values())
    table.add_row("Characters" if characters else "Words", f"{report.reference_words}: {edits}")
    left_out = f", left out: {report.skipped} with unusable audio" if report.skipped else ""
    table.add_row("Clips", f"{report.clips}{left_out}")
    if report.empty_references:
        silent = f"{report.empty_references} clips, for which {report.empty_insertions} words were written"
        table.add_row("Nothing said", silent)
    for code, how in report.languages.items():
        assumed = f"; {how.assumed} named none: is it right? --language" if how.assumed else ""
        if how.of_model:
            assumed = f"; {how.of_model} named none: the model's own, by encoder.language"
        unit = ", by character" if how.unit == "character" else ""
        table.add_row("Language", Text(f"{code}: {how.clips} clips, {how.normalizer} rules{unit}{assumed}"))
    console.print(table)
    for name, score in report.groups.items():
        if len(score.values) > 1:
            _print_field(console, name, score)


def _print_field(console: Console, name: str, score: FieldScore) -> None:
    title = Text(f"By {name}: {100 * score.gap:.1f} points between {score.best} and {score.worst}")
    table = Table(title=title, title_justify="left")
    table.add_column(Text(name))
    for column in ("WER", "95 % interval", "words", "clips"):
        table.add_column(column, justify="right")
    rows = sorted(score.values.items(), key=lambda item: -item[1].wer)
    for value, group in rows[:MOST_ROWS]:
        interval = _range(group.interval) if group.clips > 1 else "-"
        table.add_row(Text(value), _percent(group.wer), interval, str(group.words), str(group.clips))
    if len(rows) > MOST_ROWS:
        table.caption = f"and {len(rows) - MOST_ROWS} better ones"
    console.print(table)


def print_text(report: TextReport, console: Console | None = None) -> None:
    """Print perplexities and drift of the adapted model from its base."""
    change = 100 * (report.perplexity / report.perplexity_base - 1)
    table = Table(title=f"Text, {report.tokens} tokens", show_header=False, title_justify="left")
    table.add_row("Perplexity of the base", f"{report.perplexity_base:.3f}")
    table.add_row("Perplexity adapted", f"{report.perplexity:.3f}  ({change:+.2f} %)")
    table.add_row("KL(base || adapted)", f"{report.kl:.3g} nats per token")
    table.add_row("Same likeliest token", _percent(report.top1_agreement))
    table.add_row("Logits", "identical, bit for bit" if report.identical else "differ")
    (console or Console()).print(table)


def print_instruction(report: InstructionReport, name: str, console: Console | None = None) -> None:
    """Print how near answers to recordings come to the base's to their transcripts."""
    table = Table(title=Text(f"Instruction, {name}"), show_header=False, title_justify="left")
    left_out = f", {report.skipped} left out" if report.skipped else ""
    table.add_row(
        "Answers equal to the base's to the text", f"{_percent(report.match)}  ({report.clips} clips{left_out})"
    )
    table.add_row("KL(base || adapted) along the base's", f"{report.kl:.3g} nats per token  ({report.tokens} tokens)")
    (console or Console()).print(table)


def _percent(fraction: float) -> str:
    return "not defined" if math.isnan(fraction) else f"{100 * fraction:.1f} %"


def _range(interval: list[float]) -> str:
    if any(map(math.isnan, interval)):
        return "not defined"
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
