"""Two processes train as one does, and a run goes on with another number of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_run import save_recipe

from depthup import api
from depthup.recipe import load_recipe

LAYERS = {"num_layers": 1, "kernel_size": 3, "feed_forward_width": 32}
TRAIN = {
    "max_steps": 6,
    "warmup_steps": 2,
    "save_steps": 3,
    "save_total_limit": 5,
    "eval_steps": 0,
    "logging_steps": 1,
    "report_to": [],
}


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "text.txt").write_text("an old silent pond, a frog jumps in " * 9)
    replay = {"text": str(tmp_path / "text.txt"), "share": 0.3, "batch_tokens": 32, "row_tokens": 16}
    train = {**TRAIN, "ctc_warmup_steps": 2, "ctc_weight": 0.3}
    return save_recipe(tmp_path, upscale={**LAYERS, "scope": "all"}, replay=replay, train=train)


def one_process(recipe: Path, run: Path) -> Path:
    return api.train(load_recipe(recipe, [f"--output_dir={run}", "--train.gradient_accumulation_steps=2"]))


def two_processes(recipe: Path, run: Path) -> Path:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "depthup.cli", "train", str(recipe), f"--output_dir={run}"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    return run


def assert_like(a: Path, b: Path) -> None:
    left, right = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-3, atol=2e-5, msg=name)


def losses(run: Path) -> list[float]:
    return [h["loss"] for h in json.loads((run / "training.json").read_text())["history"] if "loss" in h]


def test_two_processes_equal_one_and_either_resumes_the_other(recipe, tmp_path):
    one, two = one_process(recipe, tmp_path / "one"), two_processes(recipe, tmp_path / "two")
    assert len(losses(one)) == 8
    # In the warm-up each rank logs the mean of its own bytes, so there only the sums' gradients are compared.
    assert losses(two) == pytest.approx(losses(one), rel=2e-3)
    assert_like(one, two)
    for run, resume in ((one, two_processes), (two, one_process)):
        half = tmp_path / f"half-{run.name}"
        shutil.copytree(run / "checkpoint-3", half / "checkpoint-3")
        shutil.copy(run / "recipe.yaml", half / "recipe.yaml")
        assert_like(resume(recipe, half), one)
