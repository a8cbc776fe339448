"""A training plan on the terminal."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from rich.console import Console
from rich.table import Table

from depthup.planning.assumptions import CONSTANTS
from depthup.planning.meter import BACKWARD, FORWARD, RECOMPUTE
from depthup.planning.planner import SPEECH, TrainingPlan
from depthup.planning.step import Step
from depthup.report.terminal import print_summary


def print_training_plan(plan: TrainingPlan, console: Optional[Console] = None) -> None:
    """Print the model, then steps, operations, memory, time and cost, then everything that was assumed."""
    console = console or Console()
    print_summary(plan.model, console)
    for kind, step in plan.steps_by_kind.items():
        _print_step(console, kind, step)
    _print_memory(console, plan)
    _print_time(console, plan)
    _print_assumptions(console, plan)


def _print_step(console: Console, kind: str, step: Step) -> None:
    phases = [phase for phase in (FORWARD, RECOMPUTE, BACKWARD) if any(phase in f for f in step.flops.values())]
    audio = f"{step.audio_seconds:.0f} s of audio, {step.speech_tokens:,} speech and " if step.audio_seconds else ""
    table = Table(title=f"A batch, {kind}: {audio}{step.text_tokens:,} text tokens", title_justify="left")
    table.add_column("GFLOP")
    for column in (*phases, "all", "kept activations"):
        table.add_column(column, justify="right")
    for part in dict.fromkeys([*step.flops, *step.saved]):
        counts = [step.flops.get(part, {}).get(phase, 0) for phase in phases]
        table.add_row(part, *map(_giga, [*counts, sum(counts)]), _gb(step.saved.get(part, 0)))
    sums = [sum(f.get(phase, 0) for f in step.flops.values()) for phase in phases]
    table.add_section()
    table.add_row("all", *map(_giga, [*sums, sum(sums)]), _gb(step.activations), style="bold")
    scores = [step.attention.get(phase, 0) for phase in phases]
    table.add_row("of which attention scores", *map(_giga, [*scores, sum(scores)]), "", style="dim")
    console.print(table)


def _print_memory(console: Console, plan: TrainingPlan) -> None:
    memory, sharded = plan.memory, plan.sharding == "full" and plan.gpus > 1
    shared = f", 1/{plan.gpus} on each" if sharded else ""
    rows = [
        (f"frozen weights{shared}", memory.frozen_weights),
        (f"trained weights{shared}", memory.trained_weights),
        (f"AdamW{shared}", memory.adam),
        (f"gradients{shared}", memory.gradients),
        ("layers gathered at a time" if sharded else "gradients between GPUs", memory.gathered),
        ("activations kept for the backward pass", memory.activations),
        ("  of which logits and loss", memory.logits),
        ("in passing" if memory.in_passing > 0 else "never all of these at once", memory.in_passing),
        ("assumed overhead", memory.overhead),
    ]
    table = Table(title=f"Memory of each GPU, sharding {plan.sharding}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, size in rows:
        if size:
            table.add_row(name, _gb(size))
    table.add_section()
    verdict = "" if plan.fits is None else f"{'fits' if plan.fits else 'does NOT fit'} {plan.device.memory_gb:g} GB"
    table.add_row(
        f"most at any moment   {verdict}", _gb(memory.total), style="bold" if plan.fits is not False else "red"
    )
    console.print(table)


def _print_time(console: Console, plan: TrainingPlan) -> None:
    device = plan.device
    table = Table(title=f"Training on {plan.gpus} x {device.name}", show_header=False, title_justify="left")
    epochs = "" if plan.epochs is None else f" ({plan.epochs:.3g} x the corpus)"
    warm = f", after {plan.ctc_steps:,} of CTC warm-up" if plan.ctc_steps else ""
    heard = sum(plan.batches[kind] for kind in plan.batches if plan.steps_by_kind[kind].audio_seconds)
    rows = [
        ("optimizer steps", f"{plan.steps:,}{warm}"),
        ("audio heard", f"{plan.hours:,.1f} h{epochs}, in {heard:,.0f} batches"),
        ("FLOP of a speech batch", f"{plan.steps_by_kind[SPEECH].total_flops:.3g}"),
        ("FLOP in all", f"{plan.flops:.3g}"),
        ("seconds per step", f"{plan.step_seconds:.3g}"),
        ("wall time", _duration(plan.seconds)),
        ("GPU-hours", f"{plan.gpu_hours:,.1f}"),
    ]
    if plan.cost is not None:
        rows.append((f"cost at {plan.price:g} per GPU-hour", f"{plan.cost:,.2f}"))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _print_assumptions(console: Console, plan: TrainingPlan) -> None:
    table = Table(title="Assumed", title_justify="left")
    table.add_column("option")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    for field in dataclasses.fields(plan.assumed):
        option = f"--{field.name.replace('_', '-')}"
        table.add_row(option, f"{getattr(plan.assumed, field.name):g}", field.metadata["about"])
    known: list[tuple[str, Any, str]] = [
        ("--tflops", plan.device.tflops, "peak TFLOP/s of a GPU, dense bfloat16 (of a cpu: float32)"),
        ("--memory-gb", plan.device.memory_gb, "memory of a GPU"),
        ("", plan.device.bandwidth_gb_s, "GB/s of its memory, for AdamW"),
    ]
    for option, value, meaning in known:
        table.add_row(option, "unknown" if value is None else f"{value:g}", meaning)
    for meaning, count in CONSTANTS.items():
        table.add_row("", str(count), meaning)
    console.print(table)
    console.print(
        "Counted: matrix products and convolutions; attention with its whole square. Not counted: traffic between\n"
        "GPUs, which the backward pass is taken to hide, measuring, saving, and waiting for recordings.",
        style="dim",
    )


def _giga(flops: float) -> str:
    return f"{flops / 1e9:,.1f}" if flops else "-"


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172800 else f"{seconds / 86400:.1f} days"
