"""The learning rate over a run, and batches counted in positions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from depthup.config import TEXT_RATE, DataConfig, EncoderConfig, Recipe, TrainConfig
from depthup.recipe import checked
from depthup.train.threads import Threads
from depthup.train.trainer import SpeechTrainer


def rates(**settings: Any) -> list[float]:
    """Of each step, as shares of the peak."""
    recipe = Recipe(train=TrainConfig(**{"max_steps": 10, "warmup_steps": 2, **settings}))
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "part": "llm"}], lr=1.0)
    trainer: Any = SimpleNamespace(recipe=recipe, optimizer=optimizer, lr_scheduler=None)
    scheduler = SpeechTrainer.create_scheduler(trainer, 10)
    found = []
    for _ in range(11):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_decays_to_its_floor_and_warms_up_from_nothing(schedule):
    low, none = rates(lr_schedule=schedule, min_lr_rate=0.2), rates(lr_schedule=schedule)
    assert low[:3] == none[:3] == [0.0, 0.5, 1.0]
    assert none[-1] == pytest.approx(0) and low[-1] == pytest.approx(0.2)
    assert low[3:] == pytest.approx([0.2 + 0.8 * rate for rate in none[3:]])


def test_positions_become_seconds_at_the_encoders_rate():
    for frame_rate in (12.5, 50.0):
        recipe = Recipe(encoder=EncoderConfig(frame_rate=frame_rate), data=DataConfig(batch_positions=8192))
        assert recipe.data.batch_seconds * (frame_rate + TEXT_RATE) == pytest.approx(8192)
    assert checked(Recipe(data={"batch_positions": 330})).data.batch_seconds == pytest.approx(20)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_positions"):
        DataConfig(batch_positions=0)


def test_front_end_steps_leave_cores_to_the_processes_that_load(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert threads_of_steps(Threads(2, num_workers=1)) == [2, 2, 3, 3]
        assert threads_of_steps(Threads(2, num_workers=5)) == [1, 1, 3, 3]
        assert threads_of_steps(Threads(9, num_workers=1)) == [2, 2, 2, 2] and torch.get_num_threads() == 3
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert threads_of_steps(Threads(2, num_workers=1)) == [3, 3, 3, 3]
    finally:
        torch.set_num_threads(before)


def threads_of_steps(threads: Threads) -> list[int]:
    args, seen = SimpleNamespace(device=torch.device("cpu")), []
    for step in range(4):
        threads.on_step_begin(args, SimpleNamespace(global_step=step), None)
        seen.append(torch.get_num_threads())
    threads.on_train_end(args, None, None)
    return seen
