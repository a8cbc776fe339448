"""Whatever stops a run, a kill or a full disk, what stands is whole, and the same command ends as if undisturbed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import time
from contextlib import redirect_stderr
from pathlib import Path

import faults
import pytest
from small_run import save_recipe

from depthup import files
from depthup.cli import main
from depthup.errors import UserError
from depthup.evaluate.results import Evaluation, load_results
from depthup.evaluate.text_tasks import TaskScore
from depthup.train.run_directory import checkpoints

EXACT = ("model.safetensors", "training_state.safetensors")
TRAIN = {
    "max_steps": 2,
    "warmup_steps": 1,
    "lr_schedule": "constant_with_warmup",  # so that one step too many shows
    "save_steps": 1,
    "save_total_limit": 1,
    "eval_steps": 0,
    "logging_steps": 1,
    "report_to": [],
}


def train(recipe: Path, run: Path, *words: str) -> int:
    return main(["train", str(recipe), "--output_dir", str(run), *words])


def train_and(act, number: int, recipe: Path, run: Path) -> int:
    faults.at_change(number, run, act)
    with (run.parent / "told.txt").open("w") as told, redirect_stderr(told):
        return train(recipe, run)


def names(directory: Path) -> set[str]:
    """What stands in a directory, without the random ends of names of what is being written."""
    found = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    return {re.sub(r"-[0-9a-f]{8}$", "", name) if name.startswith(files.PARTIAL) else name for name in found}


class Undisturbed:
    """A run of a tiny recipe that nothing disturbed, all its checkpoints kept."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.recipe = save_recipe(folder, train={**TRAIN, **changes})
        self.run = folder / "undisturbed"
        assert faults.ended(faults.start(train, self.recipe, self.run, "--train.save_total_limit=0")) == 0

    def assert_sound(self, run: Path) -> None:
        """Every checkpoint of another run holds what this run's of the same step does."""
        for directory in [*checkpoints(run), *([run] if (run / EXACT[0]).is_file() else [])]:
            same = self.run / directory.name if directory != run else self.run
            for name in EXACT if directory != run else EXACT[:1]:
                assert (directory / name).read_bytes() == (same / name).read_bytes(), directory / name
            for file in directory.glob("*.json"):
                json.loads(file.read_text())
        assert all(path in checkpoints(run) for path in run.glob("checkpoint-*"))

    def assert_same_end(self, run: Path) -> None:
        self.assert_sound(run)
        assert names(run) == names(self.run) - {path.name for path in checkpoints(self.run)[:-1]}
        assert (run / EXACT[0]).is_file() and json.loads((run / "training.json").read_text())["steps"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


def train_and_keep(recipe: Path, run: Path, kept: Path) -> int:
    faults.keep_before_changes(run, kept)
    return train(recipe, run)


def test_killed_before_any_change_of_a_file(undisturbed, tmp_path):
    run, kept = tmp_path / "run", tmp_path / "kept"
    assert faults.ended(faults.start(train_and_keep, undisturbed.recipe, run, kept)) == 0
    undisturbed.assert_same_end(run)
    seen: list[set[str]] = []
    for killed in sorted(kept.iterdir()):
        undisturbed.assert_sound(killed)
        if any("checkpoint-1" in before for before in seen):
            assert checkpoints(killed)
        # One of the kills that leave the same names is enough to go on from.
        if (left := names(killed)) not in seen:
            seen.append(left)
            shutil.rmtree(run)
            killed.rename(run)
            assert train(undisturbed.recipe, run) == 0
            undisturbed.assert_same_end(run)
    assert len(list(kept.iterdir())) > 30 and len(seen) > 10
    assert {f"{files.PARTIAL}checkpoint-1", "checkpoint-1", "checkpoint-2"} <= set().union(*seen)


def test_killed_again_and_again_at_random(tmp_path):
    undisturbed, run, rng = Undisturbed(tmp_path, max_steps=40, save_steps=4), tmp_path / "run", random.Random(0)
    kills = 0
    while kills < 3 and not (run / EXACT[0]).is_file():
        process, before = faults.start(train, undisturbed.recipe, run), checkpoints(run)[-1:]
        while process.is_alive() and checkpoints(run)[-1:] == before:  # so that the next one goes on from it
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        kills += faults.ended(process) < 0
        undisturbed.assert_sound(run)
    assert faults.ended(faults.start(train, undisturbed.recipe, run)) == 0
    undisturbed.assert_same_end(run)
    assert kills == 3


def test_a_disk_that_fills_up_at_any_change(undisturbed, tmp_path):
    for number in range(2, 1000, 5):
        run = tmp_path / str(number)
        status = faults.ended(faults.start(train_and, faults.full, number, undisturbed.recipe, run))
        if status == 0:
            break
        told = (tmp_path / "told.txt").read_text().splitlines()
        assert status == 2 and "no space left on the disk" in told[-1], told
        undisturbed.assert_sound(run)
    assert number > 40


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def leave(disk: Path, free: int) -> Path:
    """Fill a disk but for so many bytes."""
    ballast = disk / "ballast"
    found = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - free)))
    return ballast


def test_a_really_full_disk_and_room_again(undisturbed, small_disk, capsys):
    size = sum(file.stat().st_size for file in (undisturbed.run / "checkpoint-1").iterdir())
    for free in (size // 2, size * 3 // 2):
        ballast, run = leave(small_disk, free), small_disk / "run"
        assert train(undisturbed.recipe, run) == 2
        assert "run: no space left on the disk; what was complete is kept" in capsys.readouterr().err.splitlines()[-1]
        undisturbed.assert_sound(run)
        assert not any(name.startswith(files.PARTIAL) for name in names(run))
        assert bool(checkpoints(run)) == (free > size)
        ballast.unlink()
        assert train(undisturbed.recipe, run) == 0
        undisturbed.assert_same_end(run)
        shutil.rmtree(run)


def test_results_on_a_full_disk_stay_as_they_were(small_disk, caplog):
    scores = [TaskScore("acc", score, 0.05, 0.6, 0.5, 100, False) for score in (0.4, 0.5)]
    Evaluation(tasks={"copa": scores[0]}).keep(small_disk)
    before = (small_disk / "evaluation.json").read_bytes()
    ballast = leave(small_disk, 0)
    Evaluation(tasks={f"task{n}": scores[1] for n in range(99)}).keep(small_disk)
    assert (small_disk / "evaluation.json").read_bytes() == before and "not kept there (No space" in caplog.text
    assert names(small_disk) == {"ballast", "evaluation.json"}
    ballast.unlink()
    Evaluation(tasks={"piqa": scores[1]}).keep(small_disk)
    assert set(load_results(small_disk)["tasks"]) == {"copa", "piqa"}


def test_shards_on_a_really_full_disk(undisturbed, small_disk, tmp_path, capsys):
    source, out = str(undisturbed.recipe.parent / "audio" / "manifest.jsonl"), small_disk / "out"
    words = ["data", source, "--shard-clips=4", "--num-workers=0", "--output"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    first = (tmp_path / "whole" / "shards" / "recording.000000.tar").stat().st_size
    ballast = leave(small_disk, first * 3 // 2)
    assert main([*words, str(out)]) == 2
    assert "out: no space left on the disk" in capsys.readouterr().err.splitlines()[-1]
    assert names(out / ".partial") == {"settings.json", "000000.json", "000000.npy"}
    ballast.unlink()
    assert main([*words, str(out)]) == 0
    for path in (tmp_path / "whole").rglob("*.*"):
        assert not path.is_file() or path.read_bytes() == (out / path.relative_to(tmp_path / "whole")).read_bytes()


@pytest.mark.parametrize("file", ["cuts.000001.jsonl.gz", "recording.000001.tar"])
def test_a_shard_cut_short_is_named_and_training_goes_on_or_stops(undisturbed, tmp_path, capsys, caplog, file):
    folder, source = tmp_path / "shards", str(undisturbed.recipe.parent / "audio" / "manifest.jsonl")
    assert main(["data", source, "--shard-clips=4", "--num-workers=0", "--output", str(folder)]) == 0
    whole = (folder / "shards" / file).read_bytes()
    (folder / "shards" / file).write_bytes(whole[: len(whole) // 2])
    words = [f"--data.train={folder}", "--data.validation=null"]
    assert train(undisturbed.recipe, tmp_path / "run", *words) == 0
    (line,) = {record.getMessage() for record in caplog.records if "damaged" in record.getMessage()}
    assert "000001" in line and "\n" not in line
    assert train(undisturbed.recipe, tmp_path / "strict", *words, "--data.strict=true") == 2
    assert "the shard is damaged" in capsys.readouterr().err.splitlines()[-1]


def keep_and_die(number: int, directory: Path) -> None:
    faults.at_change(number, directory, faults.die)
    Evaluation(tasks={"copa": TaskScore("acc", 0.5, 0.05, 0.6, 0.5, 100, False)}).keep(directory)


def test_results_of_a_killed_evaluation_are_the_old_or_the_new_ones(tmp_path):
    Evaluation(tasks={"piqa": TaskScore("acc", 0.4, 0.05, 0.6, 0.5, 100, False)}).keep(tmp_path)
    before = load_results(tmp_path)
    for number in (1, 2):
        assert faults.ended(faults.start(keep_and_die, number, tmp_path)) < 0
        assert load_results(tmp_path) == before
    assert faults.ended(faults.start(keep_and_die, 3, tmp_path)) == 0
    assert set(load_results(tmp_path)["tasks"]) == {"copa", "piqa"}


def test_a_weight_that_is_not_finite_is_never_saved(undisturbed, tmp_path):
    from depthup import api

    model, _ = api.load(undisturbed.run)
    model.save_pretrained(tmp_path / "kept")
    before = (tmp_path / "kept" / "model.safetensors").read_bytes()
    next(p for p in model.parameters() if p.requires_grad).data.view(-1)[3] = float("inf")
    with pytest.raises(UserError, match="is not finite"):
        model.save_pretrained(tmp_path / "kept")
    assert (tmp_path / "kept" / "model.safetensors").read_bytes() == before
