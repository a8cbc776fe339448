"""Cores of a CPU, shared between training and the processes that load its audio."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import TrainerCallback


class Threads(TrainerCallback):
    """In `train.front_end_steps` the `data.num_workers` processes have cores of their own.

    Batches are used up several times as fast there, and of threads that wait for each other at each operation, one
    without a core stops all: on 2 cores with one process a front end hears a quarter more with one thread than with
    two (docs/performance.md). With the LLM steps are long, and all cores compute. OMP_NUM_THREADS decides where it is
    set, and nothing changes on a GPU.
    """

    def __init__(self, front_end_steps: int, num_workers: int) -> None:
        self.front_end_steps = front_end_steps
        self.kept_free = 0 if "OMP_NUM_THREADS" in os.environ else num_workers
        self.all = torch.get_num_threads()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.device.type != "cpu":
            return
        alone = state.global_step < self.front_end_steps
        threads = max(1, self.all - self.kept_free) if alone else self.all
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.set_num_threads(self.all)
