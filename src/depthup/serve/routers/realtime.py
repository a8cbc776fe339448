"""/v1/realtime: a microphone in, text out while somebody speaks; OpenAI's transcription sessions."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
from typing import Any

import numpy as np
import soxr
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from depthup.serve.errors import ApiError, unsupported
from depthup.serve.microphone import Microphone
from depthup.serve.service import Service, service_of
from depthup.serve.session import SessionOptions

router = APIRouter()
PROTOCOL = "realtime"
LAST_SECONDS = 10.0
"""Longest that a server which is being stopped waits for the text of what was being said."""


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    service = service_of(socket)
    service.check_model(socket.query_params.get("model") or next(iter(service.models)))
    if (intent := socket.query_params.get("intent", "transcription")) != "transcription":
        raise unsupported("intent", f"only transcription is served, not {intent[:50]!r}")
    offered = socket.scope.get("subprotocols") or []
    await socket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
    service.microphones += 1
    try:
        await _Session(socket, service).run()
    except WebSocketDisconnect:
        pass
    finally:
        service.microphones -= 1


class _Session:
    """What one client says, until it goes away or the server stops."""

    def __init__(self, socket: WebSocket, service: Service) -> None:
        self.socket, self.service = socket, service
        self.options = SessionOptions(model=next(iter(service.models)))
        self.microphone = Microphone(service, self.options, self.send)
        self.resampler: soxr.ResampleStream | None = None
        self.heard = False
        self.count = 0

    async def send(self, kind: str, **fields: Any) -> None:
        self.count += 1
        await self.socket.send_text(json.dumps({"type": kind, "event_id": f"event_{self.count}", **fields}))

    async def run(self) -> None:
        await self.send("session.created", session=self.options.told())
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self.microphone.write())
        draining = asyncio.create_task(self.service.draining.wait())
        try:
            await asyncio.wait({reading, writing, draining}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() or writing.done():
                (reading if reading.done() else writing).result()
                return
            reading.cancel()
            last_words = asyncio.create_task(self.microphone.close())
            await asyncio.wait({last_words, writing}, timeout=LAST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            last_words.cancel()
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await self.socket.close(1001, "the server is being stopped")
        finally:
            for task in (reading, writing, draining):
                task.cancel()
            await asyncio.gather(reading, writing, draining, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            event: Any = {}
            try:
                event = json.loads(message.get("text") or "")
                if not isinstance(event, dict):
                    raise ApiError(400, "an event is a JSON object")
                await self._take(event)
            except (ApiError, ValueError) as error:
                refused = error if isinstance(error, ApiError) else ApiError(400, "the event is not JSON")
                told = {**refused.body()["error"], "event_id": event.get("event_id") if event else None}
                await self.send("error", error=told)

    async def _take(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "input_audio_buffer.append":
            await self._append(event.get("audio"))
        elif kind == "input_audio_buffer.commit":
            if not await self.microphone.commit():
                raise ApiError(400, "the buffer holds no speech", code="input_audio_buffer_commit_empty")
        elif kind == "input_audio_buffer.clear":
            self.microphone.clear()
            await self.send("input_audio_buffer.cleared")
        elif kind in ("session.update", "transcription_session.update"):
            await self._update(event.get("session"))
            await self.send("session.updated", session=self.options.told())
        else:
            raise ApiError(400, f"type: this server does not know {str(kind)[:60]!r}", "type", "unsupported_event")

    async def _update(self, session: Any) -> None:
        options = self.options.updated(session)
        self.service.check_model(options.model)
        self.service.language(options.language)
        self.service.prompt(options.prompt)
        if self.heard and options.rate != self.options.rate:
            raise ApiError(400, "session.audio.input.format: cannot change once audio has come", "format")
        self.options = options
        await self.microphone.apply(options)

    async def _append(self, audio: Any) -> None:
        if not isinstance(audio, str):
            raise ApiError(400, "audio: give 16-bit PCM in base64", "audio")
        try:
            content = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ApiError(400, "audio: is not base64", "audio") from error
        if len(content) % 2:
            raise ApiError(400, "audio: holds half a sample of 16-bit PCM", "audio")
        samples = np.frombuffer(content, "<i2").astype(np.float32) / 32768
        wanted = self.service.processor.sampling_rate
        if self.options.rate != wanted:
            if self.resampler is None:
                self.resampler = soxr.ResampleStream(self.options.rate, wanted, 1, dtype="float32")
            samples = self.resampler.resample_chunk(samples)
        self.heard = True
        await self.microphone.feed(samples)
