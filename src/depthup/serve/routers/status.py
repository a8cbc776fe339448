"""What is served, and how it is doing."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from depthup.serve.errors import ApiError
from depthup.serve.service import Service, service_of

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    service = service_of(request)
    return {"object": "list", "data": [_model(service, name) for name in service.models]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    service = service_of(request)
    service.check_model(name)
    return _model(service, name)


def _model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.models[name],
        "owned_by": "depthup",
        "keeps_text": service.model.keeps_text,
        "chat": bool(service.processor.tokenizer.chat_template),
        "word_times": service.model.ctc_head is not None,
    }


@router.get("/health")
async def health(request: Request) -> Response:
    """200 while requests are taken; 503 while the server stops, or once the engine's thread has ended."""
    service = service_of(request)
    if service.draining.is_set():
        raise ApiError(503, "the server is being stopped")
    if not service.engine.alive:
        raise ApiError(503, "the engine has stopped")
    return JSONResponse({"status": "ok", "requests": service.active})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    return Response(generate_latest(service_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)
