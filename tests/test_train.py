"""A resumed run equals an uninterrupted one; bad runs end in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_run import save_recipe

import depthup
from depthup import api
from depthup.config import DataConfig
from depthup.data import load_cuts, read_audio
from depthup.recipe import load_recipe
from depthup.train.run_directory import last_checkpoint


def train(recipe: Path, *overrides: str) -> Path:
    return api.train(load_recipe(recipe, overrides))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def assert_same(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


@pytest.mark.parametrize("kind", ["speech", "all", "lora", "replay"])
def test_ten_steps_equal_five_kill_resume_five(tmp_path, kind, monkeypatch):
    (tmp_path / "text.txt").write_text("an old silent pond, a frog jumps in " * 9)
    replay = {"text": str(tmp_path / "text.txt"), "share": 0.5, "batch_tokens": 32, "row_tokens": 16}
    changes = {"lora": {"method": "lora"}, "replay": {"method": "full", "replay": replay}}.get(kind, {})
    recipe = save_recipe(tmp_path, **changes)
    scope = [f"--upscale.scope={kind}"] if kind in ("speech", "all") else []
    whole = train(recipe, *scope, "--output_dir", str(tmp_path / "whole"))
    run = tmp_path / "run"
    # In this process, stopping right after the checkpoint stands in for the kills of test_faults.
    from depthup.train.trainer import SpeechTrainer

    saved = SpeechTrainer._save_checkpoint

    class Killed(BaseException):
        pass

    def save_and_die(self, model, trial):
        saved(self, model, trial)
        raise Killed

    monkeypatch.setattr(SpeechTrainer, "_save_checkpoint", save_and_die)
    with pytest.raises(Killed):
        train(recipe, *scope)
    assert last_checkpoint(run).name == "checkpoint-5" and not (run / "model.safetensors").exists()
    monkeypatch.setattr(SpeechTrainer, "_save_checkpoint", saved)
    torch.manual_seed(123)  # what the new process starts from must not matter
    assert_same(train(recipe, *scope), whole)


def test_a_checkpoint_of_an_older_version_is_resumed_and_what_it_lacks_is_said(tmp_path, caplog):
    recipe = save_recipe(tmp_path)
    whole = train(recipe, "--output_dir", str(tmp_path / "whole"))
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoint-10")
    (run / "model.safetensors").unlink()
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace(str(whole), str(run)))
    state = run / "checkpoint-5" / "training_state.json"
    older = json.loads(state.read_text())
    for name in ("data", "left_out", "wall_seconds", "batches"):
        del older[name]
    state.write_text(json.dumps(older))
    caplog.clear()
    assert_same(train(recipe), whole)
    (line,) = [line for line in caplog.messages if "older version" in line]
    assert "without batches, data, left_out, wall_seconds" in line


def test_warm_up_then_loss_with_ctc_and_validation_wer(tmp_path, capfd):
    recipe = save_recipe(tmp_path)
    manifest = str(tmp_path / "audio" / "manifest.jsonl")
    run = train(
        recipe,
        *("--train.front_end_steps=4", "--train.ctc_weight=0.3", "--train.max_steps=6", "--train.eval_steps=5"),
        *("--train.logging_steps=2", f"--data.validation={manifest}", "--train.eval_clips=4"),
    )
    lines = [line for line in capfd.readouterr().err.splitlines() if "h audio/h" in line]
    assert len(lines) == 5 and "front-end loss" in lines[0] and "front-end" not in lines[-1]
    assert " loss " in lines[-1] and "GB" in lines[-1] and "left" in lines[-1] and "%" in lines[-1]
    told = json.loads((run / "training.json").read_text())
    assert [entry["step"] for entry in told["history"] if "eval_wer" in entry] == [5, 10]
    assert told["audio_hours"] > 0 and told["step_seconds"] < told["wall_seconds"]
    assert told["plan"]["keeps_text"] and told["plan"]["num_layers"] == 1 and told["plan"]["share_of_full"] > 0


def test_the_last_validation_loss_is_that_of_the_checkpoint(tmp_path):
    manifest = str(save_recipe(tmp_path).parent / "audio" / "manifest.jsonl")
    run = train(tmp_path / "recipe.yaml", f"--data.validation={manifest}", "--train.max_steps=2")
    (last,) = [e for e in json.loads((run / "training.json").read_text())["history"] if "eval_loss" in e]
    assert last["step"] == 2 and "eval_wer" not in last
    model, processor = api.load(run)
    total = tokens = 0.0
    for cut in load_cuts(manifest, DataConfig()):
        batch = processor.training_batch([read_audio(cut, processor.sampling_rate)], [cut.supervisions[0].text])
        count = int((batch["labels"] >= 0).sum())
        with torch.no_grad():
            total += float(model(**{k: v for k, v in batch.items() if not k.startswith("ctc")}).loss) * count
        tokens += count
    assert last["eval_loss"] == pytest.approx(total / tokens, rel=1e-4)


def test_a_finished_run_is_left_alone_and_another_recipe_is_refused(tmp_path):
    recipe = save_recipe(tmp_path)
    run = train(recipe, "--train.max_steps=2")
    before = (run / "model.safetensors").stat().st_mtime_ns
    assert train(recipe, "--train.max_steps=2") == run
    assert (run / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(depthup.UserError, match=r"train.learning_rate"):
        train(recipe, "--train.max_steps=2", "--train.learning_rate=0.1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(depthup.UserError, match="not empty"):
        train(recipe, "--output_dir", str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_validation_set_that_is_not_there_stops_no_training_at_its_end(tmp_path, monkeypatch):
    recipe = save_recipe(tmp_path)
    monkeypatch.setattr(depthup.SpeechLM, "from_recipe", None)
    with pytest.raises(depthup.UserError, match="nowhere.jsonl: no such file"):
        train(recipe, "--data.validation=nowhere.jsonl")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path, monkeypatch):
    from depthup.model.speech_lm import SpeechLM

    recipe = save_recipe(tmp_path)
    monkeypatch.setattr(SpeechLM, "_label_loss", lambda self, hidden, *_: hidden.sum() * float("nan"))
    with pytest.raises(depthup.UserError, match="not a number at step 1"):
        train(recipe)


def test_a_checkpoint_holds_no_frozen_tensor_and_no_pickle(tmp_path):
    run = train(save_recipe(tmp_path))
    names = set(weights(run))
    assert names and not any(n.startswith("llm.") and ".block." not in n for n in names)
    model, _ = depthup.load(run)
    assert names == {n for n, p in model.named_parameters() if p.requires_grad}
    files = [p for p in run.rglob("*") if p.is_file()]
    assert not [p for p in files if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert not list(run.glob(".partial*"))


def test_gradient_checkpointing_and_accumulation_change_no_result(tmp_path):
    recipe = save_recipe(
        tmp_path, upscale={"num_layers": 1, "e_branchformer": {"kernel_size": 3, "feed_forward_width": 32}}
    )
    plain = train(recipe, "--train.max_steps=3", "--output_dir", str(tmp_path / "plain"))
    again = train(
        recipe, "--train.max_steps=3", "--train.gradient_checkpointing=true", "--output_dir", str(tmp_path / "again")
    )
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(again)[name], tensor, rtol=1e-4, atol=1e-5)
    # The workers of the loader change nothing either.
    loaded = train(recipe, "--train.max_steps=3", "--data.num_workers=2", "--output_dir", str(tmp_path / "workers"))
    assert_same(plain, loaded)


def test_the_front_end_of_a_run_starts_another_with_other_layers_and_data(tmp_path):
    recipe = save_recipe(tmp_path)
    first = train(recipe, "--train.front_end_steps=2", "--train.max_steps=1", "--output_dir", str(tmp_path / "first"))
    still = ["--train.max_steps=1", "--train.learning_rate=0", "--train.speech_learning_rate=0"]
    start = [f"--init_from={first}", "--init_part=front_end"]
    for name, changes in {"layers": ["--upscale.num_layers=2"], "lora": ["--method=lora"]}.items():
        second = weights(train(recipe, *still, *start, *changes, "--output_dir", str(tmp_path / name)))
        for key, tensor in weights(first).items():
            if not key.startswith("llm."):
                assert torch.equal(second[key], tensor), key
    with pytest.raises(depthup.UserError, match="connector.name frames, which is draft here; give the same"):
        train(recipe, *start, "--connector.name=draft", "--output_dir", str(tmp_path / "c"))
    with pytest.raises(depthup.UserError, match="init_part"):
        train(recipe, "--init_part=front_end", "--output_dir", str(tmp_path / "d"))


def test_training_starts_from_a_checkpoint_with_the_same_layers_only(tmp_path):
    recipe = save_recipe(tmp_path)
    first = train(recipe, "--train.max_steps=3", "--output_dir", str(tmp_path / "first"))
    still = ["--train.max_steps=1", "--train.learning_rate=0", "--train.speech_learning_rate=0"]
    second = train(
        recipe, *still, f"--init_from={first}", "--train.ctc_weight=0.1", "--output_dir", str(tmp_path / "b")
    )
    for name, tensor in weights(first).items():
        assert torch.equal(weights(second)[name], tensor)
    others = {
        "--upscale.num_layers=2": r"upscale.num_layers 1, which is 2 here; give the same",
        "--upscale.e_branchformer.kernel_size=5": r"upscale.kernel_size 3, which is 5 here",
        "--upscale.scope=all": r"upscale.scope speech, which is all here",
        "--encoder.width=8": r"encoder.width 16, which is 8 here",
        "--upscale.placement=[1]": "too many or missing",
    }
    for number, (change, says) in enumerate(others.items()):
        with pytest.raises(depthup.UserError, match=says):
            train(recipe, f"--init_from={first}", change, "--output_dir", str(tmp_path / f"d{number}"))
    with pytest.raises(depthup.UserError, match="not a base"):
        train(recipe, f"--base={first}", "--output_dir", str(tmp_path / "e"))
