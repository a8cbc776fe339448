"""Two processes of one training, started as torchrun does, by a server that has imported what is slow."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import faults


def in_two(work: Callable[..., int], *args: Any) -> None:
    """Run `work`, a function of a module, as ranks 0 and 1; both must return 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [faults.start(_as_rank, rank, port, work, *args) for rank in range(2)]
    assert [faults.ended(process) for process in processes] == [0, 0]


def _as_rank(rank: int, port: int, work: Callable[..., int], *args: Any) -> int:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return work(*args)
