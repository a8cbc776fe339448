"""The process: one server that starts, tells where it is, and stops without losing what runs."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any, Union

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from depthup.serve.app import create_app
from depthup.serve.guard import LOOPBACK
from depthup.serve.service import Service
from depthup.serve.settings import Settings

log = logging.getLogger("depthup")

HEAD_SECONDS = 20
"""Longest that a new connection may take to send its first request's headers."""
CONNECTIONS = 4
"""Connections for each request that may run: those of slow or half-open clients take no request's place."""


def serve(model: Any, processor: Any, settings: Settings, checkpoint: Union[str, Path]) -> None:
    """Serve until SIGTERM or SIGINT: then no request is taken any more, and those that run are finished."""
    service = Service(model, processor, settings, Path(checkpoint).resolve().name)
    if settings.host not in LOOPBACK and not settings.api_key:
        log.warning("anyone who reaches %s may use this server; set DEPTHUP_API_KEY", settings.host)
    config = uvicorn.Config(
        create_app(service),
        host=settings.host,
        port=settings.port,
        http=Protocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.max_request_seconds),
        limit_concurrency=max(256, CONNECTIONS * settings.max_requests),
    )
    Server(config, service).run()


class Server(uvicorn.Server):
    """Says where it listens, and lets microphones have their last words before it closes."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            print(f"Serving {next(iter(self.service.models))} on http://{host}:{port}", file=sys.stderr, flush=True)

    async def shutdown(self, sockets: Any = None) -> None:
        print(f"Stopping: {self.service.active} requests are finished first", file=sys.stderr, flush=True)
        self.service.draining.set()
        for _ in range(100):
            if not self.service.microphones:
                break
            await asyncio.sleep(0.1)
        await super().shutdown(sockets)


class Protocol(H11Protocol):
    """HTTP that closes a connection on which no request comes, however slowly it does not come."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._patience = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None:
            self.timeout_keep_alive_handler()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._patience.cancel()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Any) -> None:
        self._patience.cancel()
        super().connection_lost(exc)
