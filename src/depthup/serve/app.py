"""The application: routes, page and guard around one service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from depthup.serve.errors import ApiError
from depthup.serve.guard import Guard, on_api_error, on_http_error
from depthup.serve.routers import chat, realtime, status, transcriptions
from depthup.serve.service import Service

PAGE = Path(__file__).parent / "page"
PAGE_RULES = (
    "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob:; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: nothing from elsewhere, and nothing inline."""


def create_app(service: Service) -> FastAPI:
    """Everything below one address; the service's engine runs while the application does."""

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        service.engine.close()

    middleware = [Middleware(Guard, service=service)]  # type: ignore[arg-type]
    if service.settings.allow_origin:
        allowed: Any = {"allow_methods": ["*"], "allow_headers": ["*"]}
        middleware.insert(0, Middleware(CORSMiddleware, allow_origins=[service.settings.allow_origin], **allowed))
    app = FastAPI(
        title="depthup",
        lifespan=running,
        middleware=middleware,
        exception_handlers={ApiError: on_api_error, HTTPException: on_http_error},
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.service = service
    for part in (transcriptions, chat, realtime, status):
        app.include_router(part.router)
    app.add_api_route("/", _page, include_in_schema=False)
    app.mount("/page", StaticFiles(directory=PAGE))
    return app


async def _page() -> Response:
    headers = {"Content-Security-Policy": PAGE_RULES, "X-Content-Type-Options": "nosniff"}
    return FileResponse(PAGE / "index.html", headers=headers)
