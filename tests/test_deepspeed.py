"""Two processes of DeepSpeed train as one process does, and either goes on from the other's checkpoint."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_run import save_recipe
from test_distributed import ACCUMULATE, HERE, LAYERS, TRAIN, assert_like, halved, history, one_process, spawn, words

from depthup import api
from depthup.errors import UserError
from depthup.recipe import load_recipe
from depthup.train.engine import check_engine

DEEPSPEED = HERE.parent / "recipes" / "accelerate" / "deepspeed.yaml"
installed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="deepspeed is not installed")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    data = {"train": str(folder / "audio" / "manifest.jsonl"), "batch_seconds": 3, "num_buckets": 2}
    train = {**TRAIN, "front_end_steps": 0}
    return save_recipe(folder, upscale=LAYERS, train=train, data={**data, "validation": data["train"]})


@pytest.fixture(scope="module")
def one(recipe) -> Path:
    return one_process(recipe, recipe.parent / "one")


@pytest.fixture(scope="module")
def partitioned(recipe, one) -> Path:
    """A run with DeepSpeed; beside it one that goes on from `one`, and one in bfloat16, in the same two processes."""
    folder = recipe.parent
    runs = (
        words(recipe, folder / "partitioned"),
        words(recipe, halved(one, folder / "one-then-partitioned")),
        words(recipe, folder / "bfloat16", "--dtype=bfloat16", "--train.max_steps=3"),
    )
    launch = ["accelerate.commands.launch", f"--config_file={DEEPSPEED}", "--num_processes=2", "--main_process_port=0"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DS_ACCELERATOR", "cpu")
        spawn(*launch, str(HERE / "deepspeed_on_cpu.py"), *(json.dumps([*run, ACCUMULATE.format(2)]) for run in runs))
    return folder / "partitioned"


@installed
def test_two_processes_equal_one(one, partitioned):
    assert len(history(one, "loss")) == 6
    assert history(partitioned, "loss") == pytest.approx(history(one, "loss"), rel=1e-4)
    assert history(partitioned, "eval_loss") == pytest.approx(history(one, "eval_loss"), rel=1e-4)
    assert_like(one, partitioned)
    api.load(partitioned)


@installed
def test_checkpoints_are_those_of_one_process(one, partitioned):
    state = "checkpoint-3/training_state.safetensors"
    ours, theirs = load_file(one / state), load_file(partitioned / state)
    names = {name for name in ours if name.startswith("optimizer.")}
    assert names == {name for name in theirs if name.startswith("optimizer.")}
    for name in names:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-3, atol=1e-6, msg=name)


@installed
def test_either_goes_on_from_the_other(recipe, one, partitioned):
    assert_like(recipe.parent / "one-then-partitioned", one)
    assert_like(one_process(recipe, halved(partitioned, recipe.parent / "partitioned-then-one")), one)


@installed
def test_bfloat16_keeps_and_saves_trained_weights_in_float32(one, partitioned):
    run = partitioned.parent / "bfloat16"
    assert history(run, "loss") == pytest.approx(history(one, "loss")[:3], rel=0.05)
    for name, tensor in load_file(run / "model.safetensors").items():
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, tensor.bfloat16().float()), name


@pytest.mark.parametrize(
    ("settings", "text", "told"),
    [
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, None, "zero_stage: 2"),
        ({"ACCELERATE_DEEPSPEED_CONFIG_FILE": "zero.json"}, None, "deepspeed_config_file"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, None, "offload_optimizer_device"),
        ({}, "text.txt", "replay.text"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_a_line(recipe, monkeypatch, settings, text, told):
    engine = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
    for name, value in {**engine, **settings}.items():
        monkeypatch.setenv(name, value)
    loaded = load_recipe(recipe)
    loaded.replay.text = text or loaded.replay.text
    with pytest.raises(UserError, match=told):
        check_engine(loaded)


@installed
def test_deepspeed_without_a_gpu_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    with pytest.raises(UserError, match="on GPUs only"):
        one_process(recipe, tmp_path / "run")
