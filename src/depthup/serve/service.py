"""What all parts of one server share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Optional, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from depthup.config import AUDIO_MARKER
from depthup.errors import UserError
from depthup.serve.audio import AudioIntake
from depthup.serve.engine import Engine
from depthup.serve.errors import ApiError, unsupported
from depthup.serve.events import as_event, as_events
from depthup.serve.metrics import Metrics
from depthup.serve.settings import Settings

T = TypeVar("T")
NOTHING = np.zeros(0, np.float32)


class Service:
    """A model, the engine that runs it, and how much is going on."""

    def __init__(self, model: Any, processor: Any, settings: Settings, name: str) -> None:
        self.model, self.processor, self.settings = model, processor, settings
        if settings.language and processor.kind.writer is not None:
            processor.languages(settings.language, 1)  # raises UserError
        self.metrics = Metrics()
        self.engine = Engine(model, processor, settings, self.metrics)
        self.intake = AudioIntake(processor.sampling_rate, 60 * settings.max_audio_minutes)
        self.models = {settings.model_name or name: int(time.time())}
        self.draining = asyncio.Event()
        self.active = 0
        """Requests that run or wait, microphones among them."""
        self.microphones = 0

    @property
    def ctc_rate(self) -> float:
        """Outputs a second of the CTC head; 0 without one."""
        return self.model.ctc_rate if self.model.ctc_head is not None else 0.0

    def language(self, asked: Optional[str]) -> Optional[str]:
        """What the model is told is spoken: what a client asks for, else what the server was started with.

        None for a model that cannot be told, which is every one but those with a multilingual Whisper's decoder. Raises
        ApiError for a language that the model cannot be told, and for another than the server was started with.
        """
        only = self.settings.language
        if asked and only and asked != only:
            raise unsupported("language", f"this server was started for {only} alone")
        if self.processor.kind.writer is None:
            if asked and not only:
                raise unsupported("language", "the server does not know what its model hears; --language tells it")
            return None
        try:
            self.processor.languages(asked or only or None, 1)
        except UserError as error:
            # The error itself names the decoder, which may be a path.
            raise unsupported("language", "the model's decoder does not know it; give a code such as en") from error
        return asked or only or None

    def prompt(self, before: Optional[str]) -> str:
        """What the model is asked for a transcript with: the recipe's prompt, with a client's own text before it."""
        if before and AUDIO_MARKER in before:
            raise ApiError(400, f"prompt: holds {AUDIO_MARKER}, which stands for the recording; leave it out", "prompt")
        return self.processor.apply_transcription_request(NOTHING, prompt=before or None, tokenize=False)[0]

    def check_model(self, asked: str) -> None:
        """Raises ApiError where another model is asked for."""
        if asked not in self.models:
            known = ", ".join(self.models)
            raise ApiError(404, f"model: {asked[:100]!r} is not served here, only {known}", "model", "model_not_found")


def service_of(request: Any) -> Service:
    """Of a request or a websocket."""
    return request.app.state.service


async def while_wanted(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is given up where the client goes away first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client went away")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        with contextlib.suppress(BaseException):
            await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def streamed(request: Request, events: AsyncIterator[dict[str, Any]]) -> Response:
    """Events as they come. What goes wrong before the first is an HTTP status, and after it an event."""
    first = await while_wanted(request, _first(events))

    async def all_events() -> AsyncIterator[bytes]:
        try:
            if first is not None:
                yield as_event(first)
            async for event in as_events(events):
                yield event
        finally:
            await events.aclose()  # type: ignore[attr-defined]  # a generator

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(all_events(), media_type="text/event-stream", headers=headers)


async def _first(events: AsyncIterator[dict[str, Any]]) -> Optional[dict[str, Any]]:
    return await anext(events, None)
