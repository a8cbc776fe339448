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
from tiny import VOCAB, clip, inputs_of, shake, text_ids, tiny_speech_lm

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


SHARDED = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from test_distributed import small_model, steps
from depthup.model import checkpoint
from depthup.train.state import load_state, optimizer_tensors, rng_state, save_state

run = Path(sys.argv[1])
mesh = init_device_mesh("cpu", (2,))

def sharded():
    model = small_model()
    for module in model.modules():
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)

def save(name, model, optimizer, scheduler):
    weights, moments = checkpoint.whole(checkpoint.trained_tensors(model)), optimizer_tensors(optimizer)
    if dist.get_rank() == 0:
        checkpoint.save_trained(model, run / name, weights)
        save_state(run / name, moments, optimizer, scheduler, [rng_state()], {})
    dist.barrier()

model, optimizer, scheduler = sharded()
losses = steps(model, optimizer, 3)
save("three", model, optimizer, scheduler)
losses += steps(model, optimizer, 2)
save("five", model, optimizer, scheduler)
again = small_model()
checkpoint.load_trained(again, run / "three")
globals()["small_model"] = lambda: again
model, optimizer, scheduler = sharded()
load_state(run / "three", optimizer, scheduler)
steps(model, optimizer, 2)
save("resumed", model, optimizer, scheduler)
if dist.get_rank() == 0:
    (run / "losses.json").write_text(str(losses))
"""


def small_model():
    return shake(tiny_speech_lm(scope="all")).train()


def steps(model, optimizer, count: int) -> list[float]:
    batch = inputs_of([[text_ids(3), clip(30), text_ids(4)], [text_ids(2), clip(50, 1), text_ids(5)]])
    batch["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] >= VOCAB, -100)
    losses = []
    for _ in range(count):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_fsdp_over_two_processes_trains_and_saves_what_one_does(tmp_path):
    torch.manual_seed(0)
    model = small_model()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    expected = steps(model, optimizer, 5)
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED.replace("run = Path", "torch.manual_seed(0)\nrun = Path"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    result = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(expected, rel=1e-4)
    found = load_file(tmp_path / "five" / "model.safetensors")
    wanted = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    assert_like(tmp_path / "five", tmp_path / "resumed")
