"""Server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from depthup.serve.errors import ApiError, crashed

log = logging.getLogger("depthup")


def as_event(data: dict[str, Any]) -> bytes:
    """One event of the stream."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


async def as_events(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """All events and the mark of the end; an error is an event too, since the status has been sent long ago."""
    try:
        async for event in events:
            yield as_event(event)
    except ApiError as error:
        yield as_event(error.body())
    except Exception as error:
        log.error("a stream failed", exc_info=error)
        yield as_event(crashed().body())
    yield b"data: [DONE]\n\n"
