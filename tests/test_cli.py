"""The commands as a user meets them, and what they say when something is wrong."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_run import save_base, save_recipe, shipped_recipes

from depthup.cli import COMMANDS, main
from depthup.cli.options import add_measures, measure_words
from depthup.config import Recipe
from depthup.recipe import dump_recipe, known_keys, load_recipe

REPOSITORY = Path(__file__).parents[1]
RECIPES = [*shipped_recipes(), REPOSITORY / "src/depthup/quickstart/recipe.yaml"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with a base, recordings, a recipe and a run of two steps."""
    directory = tmp_path_factory.mktemp("trained")
    recipe = save_recipe(directory)
    assert main(["train", str(recipe), "--train.max-steps", "2"]) == 0
    return directory


def fails(capsys, *words: str) -> str:
    """The one line that a command fails with."""
    capsys.readouterr()
    status = main(list(words))
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.strip()]
    assert status == 2 and len(lines) == 1, (status, lines)
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    try:
        main([command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
    assert len(capsys.readouterr().out) > 200


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_shipped_recipe_is_valid_and_survives_printing(path, tmp_path):
    recipe = load_recipe(path)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml").train == recipe.train


def test_every_key_of_a_recipe_is_read_somewhere():
    sources = [p for p in (REPOSITORY / "src").rglob("*.py") if p.name != "config.py"]
    code = "\n".join(p.read_text() for p in sources)
    code += " ".join(re.findall(r"self\.data\.\w+", (REPOSITORY / "src/depthup/config.py").read_text()))
    unread = [key for key in known_keys() if f".{key.rsplit('.', 1)[-1]}" not in code]
    assert not unread


def test_every_key_is_documented(capsys):
    main(["train", "--help"])
    text = capsys.readouterr().out
    for key in known_keys():
        section = text.split(f"--{key} ", 2)[-1]
        assert len(section.split("(type", 1)[0].split()) > 3, key


@pytest.mark.parametrize("size, layer", [("360m", "e_branchformer"), ("1.7b", "transformer-top")])
def test_plans_need_no_weights(size, layer, capsys):
    words = ["upscale", str(REPOSITORY / f"recipes/paper/smollm2-{size}/{layer}.yaml"), "--dry-run"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert layer.partition("-")[0] in out and "of full fine-tuning" in out


def test_upscale_saves_a_model_that_can_be_evaluated(tmp_path, capsys):
    base = save_base(tmp_path / "base")
    assert (
        main(["upscale", str(base), str(tmp_path / "up"), "--num-layers", "2", "--e_branchformer.kernel_size=3"]) == 0
    )
    (tmp_path / "text.txt").write_text("Some words to read. " * 20)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "up"), "--text", str(tmp_path / "text.txt"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["drift"]["identical"] and result["drift"]["kl"] == 0 and result["wer"] is None
    assert "is not empty" in fails(capsys, "upscale", str(base), str(tmp_path / "up"))


def test_print_config_shows_every_value(tmp_path, capsys):
    recipe = save_recipe(tmp_path)
    assert main(["train", str(recipe), "--print_config", "--seed=7"]) == 0
    out = capsys.readouterr().out
    assert "seed: 7" in out and all(f"{key.rsplit('.', 1)[-1]}:" in out for key in known_keys())
    assert not (tmp_path / "run").exists()


def test_transcribe_and_evaluate(trained, capsys, monkeypatch):
    run, audio = trained / "run", trained / "audio"
    assert main(["transcribe", str(run), str(audio / "1.flac")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["transcribe", str(run), str(audio), "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["files"]) == 12 and result["rtf"] > 0 and result["audio_seconds"] > 5
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((audio / "1.flac").read_bytes())))
    assert main(["transcribe", str(run), "-"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--asr", str(audio / "manifest.jsonl"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    speech = {"wer", "cer", "counts", "interval", "interval_over", "languages", "groups"}
    assert set(result) == speech | {"drift", "asr", "tasks", "instructions"}
    kept = json.loads((run / "evaluation.json").read_text())
    assert kept["asr"]["audio/manifest"]["wer"] == result["wer"]
    assert set(result["groups"]["speaker"]["values"]) == {"a", "b"}
    assert main(["evaluate", str(run), "--asr", str(audio / "manifest.jsonl")]) == 0
    assert "WER" in capsys.readouterr().out


def test_a_sweep_measures_what_evaluate_measures():
    parser = argparse.ArgumentParser()
    add_measures(parser)
    words = ["--asr", "a", "--asr", "b", "--by", "x", "--text", "t", "--text-data", "d", "--limit", "3"]
    words += ["--instruction", "Say it.", "--examples", "e", "--text-tasks", "piqa,paper"]
    given = parser.parse_args(words)
    assert parser.parse_args(measure_words(given)) == given


def test_a_directory_of_transcripts_and_one_that_nobody_reads_on(trained, tmp_path, capsys, monkeypatch):
    run, audio, out = str(trained / "run"), str(trained / "audio"), tmp_path / "out"
    options = ["--output", str(out), "--format", "json", "--vad", "none", "--channel", "each"]
    assert main(["transcribe", run, audio, *options]) == 0
    assert len(list(out.glob("*.0.json"))) == 12 and not capsys.readouterr().out
    told = json.loads((out / "1.0.json").read_text())
    assert (told["path"], told["channel"], told["language"]) == (f"{audio}/1.flac", 0, None)
    with monkeypatch.context() as patch:
        patch.setattr("depthup.api.load", None)  # it is not asked for the weights
        assert "language de: the checkpoint hears" in fails(capsys, "transcribe", run, audio, "--language", "de")
    assert "holds one recording" in fails(capsys, "transcribe", run, audio, "--format", "srt")
    assert "cannot be used here" in fails(capsys, "transcribe", run, audio, "--device", "cuda:99")

    def closed(*_):
        raise BrokenPipeError

    monkeypatch.setattr("depthup.transcribe.output.transcribe_to", closed)
    with open(os.devnull, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["transcribe", run, f"{audio}/1.flac"]) == 0


def test_bad_recipes_get_one_line(tmp_path, capsys):
    recipe = save_recipe(tmp_path)
    assert "did you mean train.max_steps" in fails(capsys, "train", str(recipe), "--train.max_step", "3")
    assert "did you mean train.learning_rate" in fails(capsys, "train", str(recipe), "--lerning_rate=1")
    assert "train.max_steps" in fails(capsys, "train", str(recipe), "--train.max_steps=many")
    assert "no such recipe" in fails(capsys, "train", str(tmp_path / "none.yaml"))
    assert "no such file or directory" in fails(capsys, "train", str(recipe), "--data.train=none.jsonl")
    assert "no causal LM there" in fails(
        capsys, "train", str(recipe), f"--base={tmp_path / 'none'}", f"--output_dir={tmp_path / 'b'}"
    )
    recipe.write_text("upscale: {kernel: 3}")
    assert "did you mean upscale.e_branchformer.kernel_size" in fails(capsys, "train", str(recipe))
    recipe.write_text("train: {max_steps: 3}\nmethod: lora\ntrain: {warmup_steps: 1}")
    assert "train is there twice; keep one" in fails(capsys, "train", str(recipe))
    recipe.write_text("train: {max_steps: 3, max_steps: 4}")
    assert "max_steps is there twice; keep one" in fails(capsys, "train", str(recipe))
    recipe.write_text("[" * 5000)
    assert "not a readable YAML" in fails(capsys, "train", str(recipe))
    recipe.write_text("train: [")
    assert "not a readable YAML" in fails(capsys, "train", str(recipe))


def test_bad_audio_gets_one_line_and_the_others_go_on(trained, tmp_path, capsys, caplog):
    run, good = str(trained / "run"), str(trained / "audio" / "1.flac")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(4000, np.nan), 16000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("not audio")
    bad = [str(tmp_path / name) for name in ("empty.wav", "nan.wav", "text.wav", "missing.wav")]
    assert main(["transcribe", run, *bad, good]) == 2
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith(good)]
    for name in bad:
        assert len([record for record in caplog.records if name in record.getMessage()]) == 1
    assert "nothing to measure" in fails(capsys, "evaluate", run)
    assert "cannot be read" in fails(capsys, "evaluate", run, "--text", str(tmp_path / "none.txt"))
    assert "no such checkpoint" in fails(capsys, "transcribe", str(tmp_path / "none"), good)


def test_bad_clips_in_training_are_skipped_or_with_strict_refused(tmp_path, capsys, caplog):
    recipe = save_recipe(tmp_path)
    (tmp_path / "audio" / "3.flac").write_bytes(b"not audio")
    strict = fails(capsys, "train", str(recipe), "--data.strict=true", "--output_dir", str(tmp_path / "strict"))
    assert "3.flac" in strict
    assert main(["train", str(recipe), "--train.max_steps=4"]) == 0
    assert any("3.flac" in record.getMessage() for record in caplog.records)


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(tmp_path, capsys, monkeypatch):
    import errno

    from depthup.train import trainer

    recipe, saved = save_recipe(tmp_path), trainer.save_state

    def full(directory, *rest):
        if "checkpoint-10" in directory.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(directory))
        saved(directory, *rest)

    monkeypatch.setattr(trainer, "save_state", full)
    assert "no space left" in fails_last(capsys, "train", str(recipe))
    monkeypatch.setattr(trainer, "save_state", saved)
    assert trainer.last_checkpoint(tmp_path / "run").name == "checkpoint-5"
    assert main(["train", str(recipe)]) == 0


def fails_last(capsys, *words: str) -> str:
    """As `fails`, for a command that has printed progress before."""
    capsys.readouterr()
    assert main(list(words)) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_an_unexpected_error_is_shown_whole(tmp_path, monkeypatch):
    recipe = save_recipe(tmp_path)
    monkeypatch.setattr("depthup.api.summary", lambda recipe: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["upscale", str(recipe), "--dry-run"])


def test_importing_depthup_imports_nothing_heavy():
    code = (
        "import sys, depthup, depthup.cli; print([m for m in ('torch', 'transformers', 'lhotse') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert out.stdout.strip() == "[]"


def test_defaults_are_a_valid_recipe():
    assert load_recipe() == Recipe()


def test_a_training_plan_needs_no_weights(trained, tmp_path, capsys):
    base = shutil.copytree(trained / "base", tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    assert main(["plan", str(trained / "recipe.yaml"), "--base", str(base), "--gpus", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpus"] == 4


def test_compare_and_its_files(trained, capsys, tmp_path):
    run = str(trained / "run")
    assert main(["compare", run, "--output", str(tmp_path / "report")]) == 0
    assert "depth_upscale" in capsys.readouterr().out
    assert (tmp_path / "report" / "compare.html").is_file()
    assert main(["compare", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["trainable"] > 0
    assert "no run" in fails(capsys, "compare", str(tmp_path))
