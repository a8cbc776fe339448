"""What was learnt and lost: `evaluate` and `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from depthup.cli.options import (
    add_fields,
    add_machine,
    add_measures,
    add_moved,
    command_parser,
    data_config,
    given_instruction,
    load,
    on_machine,
)
from depthup.errors import UserError

if TYPE_CHECKING:
    from depthup.evaluate import Evaluation


def evaluate(words: list[str]) -> int:
    parser = command_parser("evaluate", "Measure word error rate on recordings, and what adaptation did to text.")
    parser.add_argument("checkpoint", help="directory or hub id of a depthup checkpoint")
    add_measures(parser)
    add_fields(parser)
    parser.add_argument("--output", metavar="DIR", help="write every clip there, the worst first: JSONL, and a page")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_moved(parser)
    add_machine(parser)
    options = parser.parse_args(words)
    if not (options.asr or options.text or options.text_tasks):
        raise UserError("evaluate: nothing to measure; give --asr MANIFEST, --text FILE or --text-tasks TASK,...")
    if options.instruction is not None and not options.asr:
        raise UserError("evaluate: an instruction is about recordings; give --asr MANIFEST too")

    model, processor = load(options, **on_machine(options))
    from depthup import api
    from depthup.evaluate import Evaluation
    from depthup.model.card import kept_current

    found, kept = Evaluation(), Path(options.checkpoint)

    def keep() -> None:
        if kept.is_dir():
            with kept_current(model, kept):
                found.keep(kept)

    try:
        api.evaluate(
            model,
            processor,
            options.asr,
            options.text,
            options.text_tasks,
            text_data=options.text_data,
            data=data_config(options, language=options.language),
            by=options.by,
            limit=options.limit,
            instruction=given_instruction(options, processor),
            output=options.output,
            results=found,
            on_result=keep,
        )
    finally:  # what was measured before something went wrong is told
        if options.json:
            print(json.dumps(found.to_dict(), ensure_ascii=False))
        else:
            _print_evaluation(found)
    return 0


def _print_evaluation(found: Evaluation) -> None:
    from depthup.report.degradation import print_tasks
    from depthup.report.terminal import print_asr, print_instruction, print_text

    for source, heard in found.asr.items():
        print_asr(heard, source)
    for (source, instruction), answered in found.instructions.items():
        print_instruction(answered, f"{source}: {instruction}")
    for text in found.drift.values():
        print_text(text)
    if found.tasks:
        print_tasks(found.by_name()["tasks"])


def compare(words: list[str]) -> int:
    parser = command_parser("compare", "Put runs side by side: word error rates, what text lost, and what it cost.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, measured with `depthup evaluate`")
    parser.add_argument("--output", metavar="DIR", help="write compare.md, compare.json and compare.html there")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(words)
    from depthup import api
    from depthup.report.tables import print_comparison

    comparison = api.compare(options.runs, options.output)
    if options.json:
        print(json.dumps(comparison.to_dict(), ensure_ascii=False))
    else:
        print_comparison(comparison)
    return 0
