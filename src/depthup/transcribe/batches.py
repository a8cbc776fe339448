"""Which clips go through the LLM together, and the state it is in meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

BATCHES_IN_GROUP = 8
"""Batches that are read together, so that each may hold clips of like length."""


@contextmanager
def inference(*models: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is back in the mode it was in."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def batches_of_like_length(seconds: Sequence[float], batch_seconds: float) -> Iterator[list[int]]:
    """Indices of clips of like length, longest first, so that a batch too large for the memory shows at once."""
    batch: list[int] = []
    for i in sorted(range(len(seconds)), key=lambda i: -seconds[i]):
        if batch and seconds[batch[0]] * (len(batch) + 1) > batch_seconds:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def in_groups(items: Iterable[T], duration: Callable[[T], float], batch_seconds: float) -> Iterator[list[T]]:
    """Items in order, together as many as fill a few batches, so that few of them are held at a time."""
    group: list[T] = []
    held = 0.0
    for item in items:
        group.append(item)
        held += duration(item)
        if held >= BATCHES_IN_GROUP * batch_seconds:
            yield group
            group, held = [], 0.0
    if group:
        yield group


def ahead(groups: Iterator[T]) -> Iterator[T]:
    """The same; while one of them is worked on, a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, groups, None)
        while (group := following.result()) is not None:
            following = thread.submit(next, groups, None)
            yield group
