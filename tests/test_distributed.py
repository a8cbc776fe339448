"""Two processes train as one does, sharded or not, and a run goes on with another engine and number of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from ranks import in_two
from safetensors.torch import load_file
from small_run import save_recipe
from tiny import FAMILIES, tiny_base, tiny_speech_lm

from depthup import api
from depthup.cli import main
from depthup.errors import UserError
from depthup.recipe import load_recipe
from depthup.train.engine import check_engine

HERE = Path(__file__).parent
FSDP = HERE.parent / "recipes" / "accelerate" / "fsdp2.yaml"
LAYERS = {"num_layers": 1, "e_branchformer": {"kernel_size": 3, "feed_forward_width": 32}, "scope": "all"}
TRAIN = {
    "max_steps": 6,
    "warmup_steps": 2,
    "front_end_steps": 2,
    "ctc_weight": 0.3,
    "save_steps": 3,
    "save_total_limit": 5,
    "eval_steps": 3,
    "eval_clips": 4,
    "logging_steps": 1,
    "report_to": [],
}

ACCUMULATE = "--train.gradient_accumulation_steps={}"


def words(recipe: Path, run: Path, *more: str) -> list[str]:
    return [str(recipe), f"--output_dir={run}", *more]


def one_process(recipe: Path, run: Path) -> Path:
    return api.train(recipe, words(recipe, run, ACCUMULATE.format(4))[1:])


def spawn(*command: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr


def by_torchrun(recipe: Path, run: Path) -> Path:
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    spawn(*torchrun, "-m", "depthup.cli", "train", *words(recipe, run, ACCUMULATE.format(2)))
    return run


def two_processes(recipe: Path, run: Path) -> Path:
    """The same, sooner."""
    in_two(main, ["train", *words(recipe, run, ACCUMULATE.format(2))])
    return run


def two_sharded(*runs: list[str]) -> None:
    """Trainings by the shipped FSDP2 configuration, one after the other in the same two processes."""
    launch = ["accelerate.commands.launch", f"--config_file={FSDP}", "--num_processes=2", "--main_process_port=0"]
    spawn(*launch, str(HERE / "fsdp_on_cpu.py"), *(json.dumps([*run, ACCUMULATE.format(2)]) for run in runs))


def halved(run: Path, half: Path) -> Path:
    """As `run` was when it had made its first checkpoint."""
    shutil.copytree(run / "checkpoint-3", half / "checkpoint-3")
    shutil.copy(run / "recipe.yaml", half / "recipe.yaml")
    return half


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def recipe(folder) -> Path:
    (folder / "text.txt").write_text("an old silent pond, a frog jumps in " * 9)
    replay = {"text": str(folder / "text.txt"), "share": 0.3, "batch_tokens": 32, "row_tokens": 16}
    data = {"train": str(folder / "audio" / "manifest.jsonl"), "batch_seconds": 3, "num_buckets": 2}
    data["validation"] = data["train"]
    return save_recipe(folder, upscale=LAYERS, replay=replay, train=TRAIN, data=data)


@pytest.fixture(scope="module")
def one(recipe, folder) -> Path:
    return one_process(recipe, folder / "one")


@pytest.fixture(scope="module")
def two(recipe, folder) -> Path:
    return by_torchrun(recipe, folder / "two")


@pytest.fixture(scope="module")
def sharded(recipe, folder, two) -> Path:
    """A sharded run that recomputes activations; beside it one that goes on from `two`, and one in bfloat16.

    The last keeps gathered weights after use, so that measurements leave copies in bfloat16 behind.
    """
    checkpointing, short = "--train.gradient_checkpointing=true", "--train.max_steps=1"
    two_sharded(
        words(recipe, folder / "sharded", checkpointing),
        words(recipe, halved(two, folder / "two-then-sharded"), checkpointing),
        ["FSDP_RESHARD_AFTER_FORWARD=false", *words(recipe, folder / "bfloat16", "--dtype=bfloat16", short)],
    )
    return folder / "sharded"


def assert_like(a: Path, b: Path) -> None:
    left, right = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-3, atol=2e-5, msg=name)


def history(run: Path, name: str) -> list[float]:
    return [h[name] for h in json.loads((run / "training.json").read_text())["history"] if name in h]


def test_two_processes_equal_one(one, two):
    assert len(history(one, "loss")) == 8
    # In the warm-up each rank logs the mean of its own bytes, so there only the sums' gradients are compared.
    assert history(two, "loss") == pytest.approx(history(one, "loss"), rel=2e-3)
    assert_like(one, two)


def test_two_sharded_processes_equal_one(one, sharded):
    assert history(sharded, "loss") == pytest.approx(history(one, "loss"), rel=2e-3)
    assert_like(one, sharded)


def test_sharded_weights_are_measured_as_whole_ones(one, sharded):
    assert len(history(one, "eval_wer")) == len(history(one, "eval_loss")) == 3
    assert history(sharded, "eval_wer") == history(one, "eval_wer")
    assert history(sharded, "eval_loss") == pytest.approx(history(one, "eval_loss"), rel=1e-3)


def test_any_engine_and_number_of_processes_goes_on_from_any_other(recipe, folder, one, two, sharded):
    assert_like(folder / "two-then-sharded", one)
    assert_like(two_processes(recipe, halved(sharded, folder / "sharded-then-two")), one)
    assert_like(one_process(recipe, halved(two, folder / "two-then-one")), one)


def test_sharded_bfloat16_keeps_and_saves_trained_weights_in_float32(one, sharded):
    run = sharded.parent / "bfloat16"
    assert history(run, "loss") == pytest.approx(history(one, "loss")[:3], rel=0.05)
    for name, tensor in load_file(run / "checkpoint-3" / "model.safetensors").items():
        assert tensor.dtype == torch.float32
        # The layers above the CTC head did not train yet, and start from a base in bfloat16.
        assert name.startswith("llm.") or not torch.equal(tensor, tensor.bfloat16().float()), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_any_base_is_a_unit_of_its_own(family):
    model = tiny_speech_lm(tiny_base(family))
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(model)
    units = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
    assert {type(layer) for layer in model.llm.get_decoder().layers} == units


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "version 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "cpu_ram_efficient_loading"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "train.gradient_checkpointing"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_a_line(recipe, monkeypatch, settings, told):
    for name, value in {"FSDP_VERSION": "2", **settings}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=told):
        check_engine(load_recipe(recipe))


def test_fsdp_without_several_gpus_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match="several GPUs"):
        one_process(recipe, tmp_path / "run")
