"""Whose directory a run's is: what was only begun is no run, two do not share one, changed data are refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from small_run import save_recipe

from depthup import api
from depthup.cli import main
from depthup.config import DataConfig, Recipe, TrainConfig
from depthup.errors import UserError
from depthup.files import locked
from depthup.recipe import checked, load_recipe
from depthup.train.run_directory import claim, last_checkpoint


def begin(run: Path, recipe: Recipe) -> None:
    with ExitStack() as held:
        claim(run, recipe, True, held)


def test_what_was_only_begun_gives_way_to_another_recipe(tmp_path: Path):
    run, recipe = tmp_path / "run", Recipe(data=DataConfig(train="trian.jsonl"))
    begin(run, recipe)
    begin(run, replace(recipe, data=DataConfig(train="train.jsonl")))
    assert load_recipe(run / "recipe.yaml").data.train == "train.jsonl"
    (run / "checkpoint-5").mkdir()
    (run / "checkpoint-5" / "trainer_state.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run with another data.train; choose another --output_dir"):
        begin(run, recipe)


@pytest.mark.parametrize("kind", ["file", "below a file", "others"])
def test_a_directory_that_cannot_hold_a_run_gets_one_line(tmp_path: Path, kind: str):
    (tmp_path / "file").write_text("mine")
    run = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "run", "others": tmp_path}[kind]
    with pytest.raises(UserError, match="choose another --output_dir$") as error:
        begin(run, Recipe())
    assert str(error.value).startswith(f"{run}: ") and (tmp_path / "file").read_text() == "mine"


def test_a_run_that_is_refused_leaves_nothing(tmp_path: Path):
    recipe = save_recipe(tmp_path)
    for option in ("--upscale.placement=[99]", f"--init_from={tmp_path / 'base'}", "--encoder.frame_rate=7"):
        assert main(["train", str(recipe), option]) == 2
        assert not (tmp_path / "run").exists(), option


def test_two_runs_do_not_share_a_directory(tmp_path: Path):
    run = tmp_path / "run"
    with ExitStack() as held:
        claim(run, Recipe(), True, held)
        (run / ".partial-of-the-first").write_text("")
        before = (run / "recipe.yaml").read_text()
        with pytest.raises(UserError, match=f"^{run}: another process is at work in it; wait for its end"):
            begin(run, Recipe(seed=5))
        assert (run / ".partial-of-the-first").exists() and (run / "recipe.yaml").read_text() == before
    begin(run, Recipe(seed=5))


def test_a_lock_ends_with_its_process_although_a_worker_of_it_lives_on(tmp_path: Path):
    told, tell = os.pipe()
    holder = os.fork()
    if holder == 0:
        with locked(tmp_path):
            if os.fork() == 0:
                os.write(tell, str(os.getpid()).encode())
                signal.pause()
            os._exit(1)  # as if it were killed
    os.waitpid(holder, 0)
    worker = int(os.read(told, 20))
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_manifest_that_changes_between_a_kill_and_the_resumption_is_refused(tmp_path: Path, capsys):
    recipe = save_recipe(tmp_path)
    steps = ["--train.save_steps", "1", "--train.max_steps"]
    run, manifest = tmp_path / "run", tmp_path / "audio" / "manifest.jsonl"
    assert main(["train", str(recipe), *steps, "2"]) == 0
    (run / "model.safetensors").unlink()  # as a run that was killed after its last checkpoint but one
    assert last_checkpoint(run) is not None
    before = manifest.read_text()
    rows = [json.loads(line) for line in before.splitlines()]
    manifest.write_text("".join(json.dumps({**row, "text": row["text"].upper()}) + "\n" for row in rows))
    shutil.rmtree(run / "checkpoint-2")
    assert main(["train", str(recipe), *steps, "2"]) == 2
    assert "what data.train names has changed since this run began; put it back" in capsys.readouterr().err
    manifest.write_text(before)
    assert main(["train", str(recipe), *steps, "2"]) == 0


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (Recipe(method="ful"), "method"),
        (Recipe(train=TrainConfig(logging_steps="often")), "train.logging_steps"),  # type: ignore[arg-type]
        (Recipe(train={"max_stps": 5}), "unknown key train.max_stps; did you mean train.max_steps"),  # type: ignore[arg-type]
        (Recipe(train={"max_steps": 0}), "train.max_steps must be at least 1, not 0"),  # type: ignore[arg-type]
        (Recipe(data=5), "data is a section and needs keys of its own"),  # type: ignore[arg-type]
    ],
)
def test_a_recipe_made_in_python_is_checked_as_one_in_yaml(recipe: Recipe, says: str):
    for call in (lambda: checked(recipe), lambda: api.train(recipe), lambda: api.upscale(recipe, dry_run=True)):
        with pytest.raises(UserError, match=says) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_recipe_made_in_python_may_be_changed_later_and_hold_paths(tmp_path: Path):
    recipe = Recipe(output_dir=tmp_path / "run", data={"train": [tmp_path / "a.jsonl"]})  # type: ignore[arg-type]
    assert checked(recipe).output_dir == str(tmp_path / "run") and checked(recipe).data.train == [
        str(tmp_path / "a.jsonl")
    ]
    recipe = Recipe()
    recipe.data.min_duration = 40.0
    with pytest.raises(UserError, match="data.min_duration must be below data.max_duration"):
        checked(recipe)
    assert checked(Recipe()) == Recipe()
