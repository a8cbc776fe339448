"""Before any route: who may ask, how much, how long, and how many at a time."""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import time
from typing import Any, Optional
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from depthup.serve.errors import ApiError, crashed
from depthup.serve.service import Service

log = logging.getLogger("depthup")

MB = 1_000_000
CHAT_MB = 32
"""Largest JSON body, which is held in memory; recordings in a chat are short."""
IDLE_SECONDS = 30.0
"""Longest pause within an upload."""
COUNTED = ("/v1/audio/transcriptions", "/v1/chat/completions", "/v1/realtime")
"""Routes that make work for the model."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY_PROTOCOL = "openai-insecure-api-key."
"""How a page gives its key to a websocket, which takes no headers from it; OpenAI's own pages do the same."""


class Guard:
    """Wraps the application; every answer of its own is an error of OpenAI's form, and every error is counted."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service
        self._typical = 1.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        answer = _Answer(send)
        began = time.monotonic()
        counted = scope["path"] in COUNTED
        try:
            self._admit(scope, counted)
            if not counted:
                await self.app(scope, receive, answer)
            else:
                await self._within_limits(scope, receive, answer, began)
        except ApiError as error:
            await self._refuse(scope, receive, answer, error)
        except ClientDisconnect:
            pass  # in the middle of its upload; there is nobody to answer
        except Exception as error:
            foreseen = _foreseen(error)
            if foreseen is None:
                log.error("%s failed", scope["path"], exc_info=error)
            else:
                log.error("%s failed: %s", scope["path"], error)
            await self._refuse(scope, receive, answer, foreseen or crashed())
        finally:
            route = scope["path"] if counted or scope["path"] in ("/health", "/metrics", "/v1/models") else "other"
            self.service.metrics.requests.labels(route, str(answer.status or 499)).inc()
            if counted and scope["type"] == "http":
                self.service.metrics.seconds.labels(route).observe(time.monotonic() - began)

    async def _within_limits(self, scope: Any, receive: Any, answer: _Answer, began: float) -> None:
        service, live = self.service, scope["type"] == "websocket"
        service.active += 1
        service.metrics.active.set(service.active)
        try:
            body = receive if live else self._body(scope, receive)
            with anyio.move_on_after(None if live else service.settings.max_request_seconds) as time_limit:
                await self.app(scope, body, answer)
            if time_limit.cancelled_caught:
                most = f"{service.settings.max_request_seconds:g} s"
                raise ApiError(504, f"the request took longer than {most} and was given up", code="timeout")
            if not live and answer.status == 200:
                self._typical += 0.1 * (time.monotonic() - began - self._typical)
        finally:
            service.active -= 1
            service.metrics.active.set(service.active)

    def _body(self, scope: Any, receive: Any) -> _Body:
        most = self.service.settings.max_upload_mb
        if scope["path"] == "/v1/chat/completions":
            most = min(most, CHAT_MB)
        return _Body(receive, most, Headers(scope=scope).get("content-length", ""))

    def _admit(self, scope: Any, counted: bool) -> None:
        """Raises ApiError where the request may not go on."""
        headers, settings = Headers(scope=scope), self.service.settings
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        if settings.host in LOOPBACK and host not in LOOPBACK:  # a page elsewhere whose name was made to mean this
            raise ApiError(403, "this server answers to its own machine alone")
        origin = headers.get("origin")
        if origin and origin != settings.allow_origin and urlsplit(origin).netloc != headers.get("host"):
            raise ApiError(403, "pages of other origins may not use this server; see --allow-origin")
        closed = scope["path"].startswith("/v1/") or scope["path"] == "/metrics"
        if settings.api_key and closed and not _same(_key(headers), settings.api_key):
            raise ApiError(401, "give the server's key as a bearer token", code="invalid_api_key")
        if counted and self.service.draining.is_set():
            raise ApiError(503, "the server is being stopped", retry=5)
        if counted and self.service.active >= settings.max_requests:
            retry = min(60, max(1, round(self._typical)))
            raise ApiError(429, "too many requests at once; try again later", code="queue_full", retry=retry)

    async def _refuse(self, scope: Any, receive: Any, answer: _Answer, error: ApiError) -> None:
        if answer.status is not None:
            return  # the client sees a stream that ends without its end
        if scope["type"] == "websocket":
            answer.status = error.status
            await WebSocket(scope, receive, answer.send).send_denial_response(error.response())
        else:
            await error.response()(scope, receive, answer)


class _Answer:
    """Passes messages on and knows the status that was sent."""

    def __init__(self, send: Any) -> None:
        self.send = send
        self.status: Optional[int] = None

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "websocket.accept":
            self.status = 101
        await self.send(message)


class _Body:
    """Receives a request's body, no more of it than is allowed, and without long pauses."""

    def __init__(self, receive: Any, most_mb: float, stated: str) -> None:
        self._receive, self._most_mb = receive, most_mb
        self._read, self._whole = 0, False
        self._check(int(stated) if stated.isdigit() else 0)

    async def __call__(self) -> Any:
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), IDLE_SECONDS)
        except asyncio.TimeoutError as error:
            raise ApiError(408, f"nothing of the request came for {IDLE_SECONDS:g} s") from error
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            self._check(self._read)
        return message

    def _check(self, size: int) -> None:
        if size > self._most_mb * MB:
            raise ApiError(413, f"the request is larger than {self._most_mb:g} MB", "file", "too_large")


def _key(headers: Headers) -> str:
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return key.strip()
    protocols = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
    return next((name.removeprefix(KEY_PROTOCOL) for name in protocols if name.startswith(KEY_PROTOCOL)), "")


def _same(one: str, other: str) -> bool:
    """Whether two keys are equal, in a time that tells nothing about them."""
    return hmac.compare_digest(one.encode(), other.encode())


def _foreseen(error: Exception) -> Optional[ApiError]:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ApiError(507, "the server has no disk space left for the upload", code="disk_full", retry=60)
    return None


async def on_api_error(request: Request, error: Exception) -> Response:
    """As FastAPI's handlers are."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_http_error(request: Request, error: Any) -> Response:
    """Unknown routes and methods, in the form of all other errors."""
    return ApiError(error.status_code, str(error.detail)).response()
