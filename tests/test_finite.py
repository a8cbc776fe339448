"""A step whose loss or gradients are not finite stops the run, or is left out as if it had never been."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ranks import in_two
from small_run import save_recipe
from test_distributed import assert_like
from test_train import assert_same, train

import depthup
from depthup.train.finite import MOST_IN_A_ROW
from depthup.train.run_directory import checkpoints
from depthup.train.trainer import SpeechTrainer

TRAIN = {
    "max_steps": 6,
    "warmup_steps": 2,
    "save_steps": 2,
    "save_total_limit": 9,
    "eval_steps": 0,
    "logging_steps": 2,
    "report_to": [],
}
LAYERS = {"num_layers": 1, "e_branchformer": {"kernel_size": 3, "feed_forward_width": 32}}


@pytest.fixture
def recipe(tmp_path) -> Path:
    return save_recipe(tmp_path, train=TRAIN, upscale=LAYERS)


def infinite_gradient(loss: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    weight = next(p for p in model.parameters() if p.requires_grad).view(-1)[0]
    return loss + (0 * weight).sqrt()


BAD = {
    "NaN": lambda loss, model: loss * float("nan"),
    "infinite loss, finite gradients": lambda loss, model: loss + float("inf"),
    "infinite gradient, finite loss": infinite_gradient,
}


def spoil(monkeypatch, steps: set[int], kind: str = "NaN", rank: int = 0) -> None:
    """Make the second batch of the steps of these numbers bad; of several processes only that of one."""
    forward = SpeechTrainer._speech_loss
    batches: dict[int, int] = {}

    def loss(self, *args):
        found, step = forward(self, *args), self.state.global_step + 1
        batches[step] = batches.get(step, 0) + 1
        second = batches[step] == self.args.gradient_accumulation_steps
        if step in steps and second and self.args.process_index == rank:
            return BAD[kind](found, self.model)
        return found

    monkeypatch.setattr(SpeechTrainer, "_speech_loss", loss)


def leave_out(monkeypatch, step: int) -> None:
    """Keep the optimizer from making a step, by its number."""
    real, made = torch.optim.AdamW.step, []

    def counted(self, *args):
        made.append(self)
        return None if len(made) == step else real(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)


@pytest.mark.parametrize(("accumulation", "kind"), [(1, "NaN"), *((2, kind) for kind in BAD)])
def test_a_skipped_step_changes_nothing(recipe, tmp_path, monkeypatch, caplog, accumulation, kind):
    words = [f"--train.gradient_accumulation_steps={accumulation}", "--train.on_nan=skip"]
    with monkeypatch.context() as patch:
        leave_out(patch, 4)
        expected = train(recipe, *words, f"--output_dir={tmp_path / 'expected'}")
    spoil(monkeypatch, {4}, kind)
    run = train(recipe, *words)
    assert_same(run, expected)
    told = json.loads((run / "training.json").read_text())
    assert told["steps_left_out"] == [4]
    (line,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert line.startswith("step 4: left out")
    # What is logged is the mean of the steps that counted.
    assert all(0.5 < entry["loss"] < 50 for entry in told["history"])


def test_a_run_stops_before_a_bad_checkpoint_and_may_go_on_without_the_step(recipe, tmp_path, monkeypatch):
    expected = tmp_path / "expected"
    with monkeypatch.context() as patch:
        spoil(patch, {4})
        train(recipe, "--train.on_nan=skip", f"--output_dir={expected}")
    with monkeypatch.context() as patch:
        spoil(patch, {4})
        with pytest.raises(depthup.UserError, match="loss is not a number at step 4.*train.on_nan=skip"):
            train(recipe)
        assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    with monkeypatch.context() as patch:
        spoil(patch, {4})
        run = train(recipe, "--train.on_nan=skip")
    assert_same(run, expected)
    # The steps left out are counted over all resumptions, and belong to no later log.
    told, whole = (json.loads((path / "training.json").read_text()) for path in (run, expected))
    assert told["steps_left_out"] == [4] and told["history"] == whole["history"]


def test_many_skipped_in_a_row_stop_the_run(recipe, tmp_path, monkeypatch):
    spoil(monkeypatch, set(range(2, 99)))
    with pytest.raises(depthup.UserError, match=f"{MOST_IN_A_ROW} steps in a row, up to step {MOST_IN_A_ROW + 1}"):
        train(recipe, "--train.on_nan=skip", "--train.max_steps=30", "--train.save_steps=100")


def spoiled(recipe: Path, run: Path, kind: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, {4}, kind, rank=1)
        train(recipe, "--train.on_nan=skip", f"--output_dir={run}")
    return 0


def test_two_processes_leave_out_the_same_step_when_one_of_them_meets_it(recipe, tmp_path, monkeypatch):
    kind, two = "infinite loss, finite gradients", tmp_path / "two"
    in_two(spoiled, recipe, two, kind)
    spoil(monkeypatch, {4}, kind)
    one = train(
        recipe, "--train.on_nan=skip", "--train.gradient_accumulation_steps=2", f"--output_dir={tmp_path / 'one'}"
    )
    assert_like(one, two)
    assert all(json.loads((run / "training.json").read_text())["steps_left_out"] == [4] for run in (one, two))
