"""The directory of a run: whose it is, and that one training at a time is at work in it."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Optional

import yaml
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from depthup import files
from depthup.config import Recipe
from depthup.errors import UserError
from depthup.model import checkpoint
from depthup.recipe import RECIPE, differences, dump_recipe

STATE = "trainer_state.json"
"""The Trainer's own part of a checkpoint."""
RESUMABLE = (
    *("output_dir", "configs", "data.num_workers", "train.gradient_accumulation_steps", "train.gradient_checkpointing"),
    *("train.logging_steps", "train.eval_", "train.save_", "train.report_to", "train.on_nan"),
)
"""Keys that may change between a run and its resumption."""


def claim(run: Path, recipe: Recipe, main: bool, held: ExitStack) -> None:
    """Refuse a directory that holds something else; the main process keeps the recipe in it and clears up.

    It also keeps other runs out until `held` is closed. What was begun and has neither checkpoint nor weights is no
    run: another recipe may take its place. Raises UserError.
    """
    kept = run / RECIPE
    try:
        with files.disk_guard(run):
            if main and not run.exists():
                run.mkdir(parents=True)
                held.push(partial(_leave_nothing, run))
            if main:
                held.enter_context(files.locked(run))
            ours = kept.is_file()
            if ours and (checkpoints(run) or (run / checkpoint.WEIGHTS).is_file()):
                _refuse_another(run, yaml.safe_load(kept.read_text(encoding="utf-8")), recipe)
            if not ours and any(not path.name.startswith(files.PARTIAL) for path in run.iterdir()):
                raise UserError(f"{run}: is not empty and holds no run of depthup; choose another --output_dir")
            if main:
                files.clear(run)
                files.write_text(kept, dump_recipe(recipe))
    except (OSError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or "its recipe.yaml is damaged"
        raise UserError(f"{run}: cannot hold a run ({reason}); choose another --output_dir") from error


def _leave_nothing(run: Path, kind: Optional[type[BaseException]], *_: object) -> None:
    """Where a run was refused before anything was done, the directory made for it goes too."""
    if kind is not None and issubclass(kind, UserError):
        with suppress(OSError):  # which would hide why it was refused
            if {path.name for path in run.iterdir()} <= {RECIPE}:
                files.remove(run)


def _refuse_another(run: Path, old: object, recipe: Recipe) -> None:
    if not isinstance(old, dict):
        raise UserError(f"{run / RECIPE}: is no recipe any more; choose another --output_dir or remove the directory")
    changed = [key for key in differences(old, dataclasses.asdict(recipe)) if not key.startswith(RESUMABLE)]
    if changed:
        raise UserError(
            f"{run}: holds a run with another {', '.join(changed)}; choose another --output_dir or remove it"
        )


def refuse_changed(old: dict[str, str], new: dict[str, str], run: str) -> None:
    """Raises UserError where a run's data, known by hashes under the recipe's keys, are not what they were."""
    changed = [key for key in old if old[key] != new.get(key)]
    if changed:
        raise UserError(
            f"{run}: what {' and '.join(changed)} names has changed since this run began; put it back, or begin anew "
            "with another --output_dir and --init_from"
        )


def last_checkpoint(run: Path) -> Optional[Path]:
    """The newest checkpoint of a run."""
    return next(reversed(checkpoints(run)), None)


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, oldest first; what else has such a name does not count."""
    found = [path.parent for path in run.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{STATE}")]
    return sorted((path for path in found if path.name.rpartition("-")[2].isdigit()), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
