"""Everything that was measured of a checkpoint, and the file beside it that keeps it for comparison."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthup import files
from depthup.evaluate.instructions import InstructionReport
from depthup.evaluate.paired import EACH, of_each
from depthup.evaluate.scores import AsrReport
from depthup.evaluate.text import TextReport

if TYPE_CHECKING:
    from depthup.evaluate.text_tasks import TaskScore

NAME = "evaluation.json"
SCORES = ("wer", "cer", "counts", "interval", "interval_over", "languages", "groups")

log = logging.getLogger("depthup")


@dataclass
class Evaluation:
    """Reports by test set, by text file, by lm-eval task, and by test set and instruction."""

    asr: dict[str, AsrReport] = field(default_factory=dict)
    drift: dict[str, TextReport] = field(default_factory=dict)
    tasks: dict[str, TaskScore] = field(default_factory=dict)
    instructions: dict[tuple[str, str], InstructionReport] = field(default_factory=dict)

    def by_name(self) -> dict[str, dict[str, Any]]:
        """Plain data for JSON, without transcripts: `asr`, `drift`, `tasks` and `instructions`, each by name."""
        heard = {source_name(source): report.to_dict() for source, report in self.asr.items()}
        return {
            "asr": heard,
            "drift": {source_name(source): report.to_dict() for source, report in self.drift.items()},
            "tasks": {task: score.to_dict() for task, score in self.tasks.items()},
            "instructions": {
                f"{source_name(source)}: {text}": report.to_dict()
                for (source, text), report in self.instructions.items()
            },
        }

    def to_dict(self) -> dict[str, Any]:
        """What `evaluate --json` prints: always the same keys, null where nothing was measured.

        The first test set's scores and the first text's drift stand at the top, all test sets by name under `asr`.
        """
        named = self.by_name()
        first = next(iter(named["asr"].values()), dict.fromkeys(SCORES))
        drift = next(iter(named["drift"].values()), None)
        parts = {name: named[name] or None for name in ("asr", "tasks", "instructions")}
        return {**first, "drift": drift, **parts}

    def keep(self, directory: Path) -> None:
        """Add to what is kept in a checkpoint's directory; of a thing measured again the new result stays.

        A directory that cannot be written to is named in the log.
        """
        kept = load_results(directory)
        for part, found in self.by_name().items():
            kept[part] = {**kept.get(part, {}), **found}
        for source, report in self.asr.items():
            kept["asr"][source_name(source)][EACH] = of_each(report)
        try:
            files.write_json(directory / NAME, kept)
        except OSError as error:
            log.warning("%s: results are not kept there (%s)", directory, error.strerror)


def load_results(directory: Path) -> dict[str, dict[str, Any]]:
    """All that was kept, as `Evaluation.by_name` gives it; parts may be missing."""
    file = directory / NAME
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def source_name(source: str) -> str:
    """A short name of a test set or text: `fsdd/test` for `../speech/fsdd/test.jsonl`."""
    path = Path(source)
    if not path.exists():
        return source
    path = path.resolve()
    return f"{path.parent.name}/{path.name.split('.')[0]}"
