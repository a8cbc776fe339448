"""Work shared out to processes that neither outlive the one that started them nor run ahead of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from depthup.errors import UserError

Result = TypeVar("Result")


def in_processes(work: Callable[..., Result], inputs: Iterable[tuple[Any, ...]], num_workers: int) -> Iterator[Result]:
    """`work(*input)` for each input, as each is ready, in `num_workers` processes, or in this one for 0.

    Inputs are taken only as workers become free, one ahead. Raises what `work` raises, and UserError where a worker
    was killed.
    """
    if not num_workers:
        yield from (work(*one) for one in inputs)
        return
    # Not fork: this process has threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, initializer=_begin_worker)
    running: set[Future[Result]] = set()
    try:
        for one in inputs:
            running.add(pool.submit(work, *one))
            if len(running) > num_workers:
                ready, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ready)
        while running:
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ready)
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; run the same again with fewer --num-workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    # An interrupt ends a worker at once; its parent says so.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
