"""What a request wants of the model, row by row, and how the answers come back to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

from depthup.transcribe.guard import Heard

AHEAD = 8
"""Rows of one request that may wait or run at a time, so that a long recording is never held whole."""


@dataclass(eq=False)
class Row:
    """One answer to be written: a prompt with a marker for each of its pieces of audio."""

    prompt: str
    audio: list[np.ndarray]
    limit: int
    """Most tokens of the answer."""
    size: float
    """About how many tokens the prompt will have; rows of like size are read together."""
    transcript: bool = True
    """The answer is what the one piece of audio says, so that its own spelling may be a draft of it; else a chat's."""
    draft_only: bool = False
    """The front end's own transcript is answer enough: the LLM is not asked."""
    guess: str = ""
    """What a transcript may begin with; the same is written with it as without, in fewer passes."""
    language: Optional[str] = None
    """What a multilingual decoder is told is spoken."""
    tag: Any = None
    """What the asker wants to know it by."""
    work: Work = field(init=False)
    arrived: float = field(init=False)
    alone: bool = False
    """It was in a batch that failed, and shows by itself whether it was the cause."""
    prompt_tokens: int = 0
    """Counted once it was read."""
    heard: Optional[Heard] = None
    """Of a transcript that is through: what there is to judge it by."""


@dataclass(frozen=True)
class Answer:
    """What is written of a row; `text` is all of it so far."""

    row: Row
    text: str
    tokens: int
    through: bool
    cut: bool = False
    """It ended at its limit of tokens and not by itself."""


class Work:
    """One request's rows, in its own event loop; the engine's thread reads `cancelled` and calls `tell` and `fail`."""

    def __init__(self, put: Callable[[Row], None], partial: bool = False) -> None:
        """`put` hands a row to the engine; `partial` asks for every text so far."""
        self.partial = partial
        self.cancelled = False
        self.running = 0
        self._put = put
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._room = asyncio.Semaphore(AHEAD)
        self._unfinished, self._fed = 0, False
        self._feeder: Optional[asyncio.Task[None]] = None

    async def answers(self, rows: AsyncIterator[Row]) -> AsyncIterator[Answer]:
        """Answers to `rows` as they are written, those of different rows in any order.

        Raises what the making of rows or the model raised. Leaving the iteration gives up what is not through.
        """
        self._feeder = asyncio.create_task(self._feed(rows))
        try:
            while self._unfinished or not self._fed:
                event = await self._events.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    continue
                if event.through:
                    self._unfinished -= 1
                    self._room.release()
                yield event
        finally:
            self.cancelled = True
            self._feeder.cancel()

    async def _feed(self, rows: AsyncIterator[Row]) -> None:
        try:
            async for row in rows:
                await self._room.acquire()
                row.work, row.arrived = self, time.monotonic()
                self._unfinished += 1
                self._put(row)
        except Exception as error:
            self._events.put_nowait(error)
        else:
            self._fed = True
            self._events.put_nowait(None)

    def tell(self, answer: Answer) -> None:
        """Hand over an answer, from any thread."""
        self._soon(self._events.put_nowait, answer)

    def fail(self, error: Exception) -> None:
        """End the request with an error, from any thread."""
        self.cancelled = True
        self._soon(self._events.put_nowait, error)

    def _soon(self, call: Callable[[Any], None], what: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, what)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self.cancelled = True
