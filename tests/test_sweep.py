"""A sweep gives each method the rate with the lowest validation loss, goes on where it stopped, and loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import save_recipe

import depthup
from depthup import cli
from depthup.sweep import METHODS, Sweep


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = save_recipe(tmp_path, augment={})
    text = path.read_text().replace("train: ", f"validation: {tmp_path}/audio/manifest.jsonl\n  train: ", 1)
    path.write_text(text)
    return path


@pytest.fixture
def calls(monkeypatch) -> list[list[str]]:
    """Run the commands in this process, which is faster, and note them."""
    noted: list[list[str]] = []

    def run_here(self, name, words):
        noted.append(words)
        try:
            if cli.COMMANDS[words[0]][0](words[1:]):
                raise depthup.UserError("failed")
        except depthup.UserError:
            raise

    monkeypatch.setattr(Sweep, "_depthup", run_here)
    return noted


def sweep_of(recipe: Path, **options) -> Sweep:
    options = {"rates": (1e-3, 1e-2), "search_steps": 2, "methods": ["full", "e_branchformer-speech"], **options}
    return Sweep(str(recipe), ["--train.max_steps=3"], recipe.parent / "sweep", **options)


def searched(sweep: Sweep, name: str) -> dict[float, float]:
    files = (sweep.output_dir / "search").glob(f"{name}@*.json")
    return {float(f.stem.split("@")[1]): json.loads(f.read_text())["history"][-1]["eval_loss"] for f in files}


def test_each_method_trains_at_its_best_rate_and_again_does_nothing(recipe, calls):
    sweep = sweep_of(recipe, measure=["--asr", str(recipe.parent / "audio" / "manifest.jsonl"), "--limit", "2"])
    runs = sweep.run()
    assert [run.name for run in runs] == ["full", "e_branchformer-speech"] and not sweep.failed
    for run in runs:
        losses = searched(sweep, run.name)
        told = json.loads((run / "training.json").read_text())
        assert told["learning_rate"] == pytest.approx(min(losses, key=losses.get))
        assert told["steps"] == 3 and told["history"][-1]["eval_loss"] > 0
        assert json.loads((run / "evaluation.json").read_text())["asr"]
    assert json.loads((runs[1] / "training.json").read_text())["plan"]["scope"] == "speech"
    before = len(calls)
    assert sweep_of(recipe, measure=sweep.measure).run() == runs
    assert len(calls) == before


def test_a_single_rate_is_taken_without_a_search(recipe, monkeypatch):
    monkeypatch.delattr(Sweep, "_probe")
    assert sweep_of(recipe, rates=(2e-4,))._search("full") == 2e-4


def test_search_goes_beyond_an_end_but_not_for_ever(recipe, monkeypatch):
    sweep = sweep_of(recipe)
    losses = {1e-2: 3.0, 1e-3: 2.0, 1e-4: 1.0, 1e-5: 0.5, 1e-6: 0.1}
    tried = []

    def probe(name, rate):
        tried.append(rate)
        return losses[min(losses, key=lambda r: abs(r / rate - 1))]

    monkeypatch.setattr(sweep, "_probe", probe)
    assert sweep._search("full") == pytest.approx(1e-5)
    assert tried == pytest.approx([1e-3, 1e-2, 1e-4, 1e-5])
    losses[1e-4] = 9.0
    assert sweep._search("full") == pytest.approx(1e-3)


def test_a_rate_that_diverges_is_passed_over_and_a_failure_stops_only_its_method(recipe, monkeypatch):
    def train(self, name, rate, run, *changes):
        if name == "lora":
            raise depthup.UserError("out of memory")
        if rate > 1e-3:
            raise depthup.UserError("loss is not a number at step 1")
        run.mkdir(parents=True)
        (run / "training.json").write_text(json.dumps({"history": [{"eval_loss": 1 / rate}]}))
        (run / "model.safetensors").touch()

    monkeypatch.setattr(Sweep, "_train", train)
    sweep = sweep_of(recipe, methods=["lora", "full"], rates=(1e-3, 1e-2))
    assert [run.name for run in sweep.run()] == ["full"]
    assert sweep.failed == {"lora": "out of memory"}
    assert searched(sweep, "full")[1e-2] == float("inf")


def test_replay_only_where_there_is_text_and_where_it_can_act(recipe):
    everything = sweep_of(recipe, methods=[]).methods
    assert set(METHODS) - set(everything) == {"full+replay", "lora+replay"}
    with pytest.raises(depthup.UserError, match="replay.text"):
        sweep_of(recipe, methods=["full+replay"])
    with pytest.raises(depthup.UserError, match="no method fulll"):
        sweep_of(recipe, methods=["fulll"])
