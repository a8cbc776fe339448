"""What a server may be asked to do, and how much of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from depthup.errors import UserError

MOST_PORT = 65535
PACKAGES = ("fastapi", "multipart", "prometheus_client", "uvicorn", "websockets")


def _option(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class Settings:
    """Options of `depthup serve`; every limit holds for one process."""

    host: str = _option("127.0.0.1", "address to listen on; 0.0.0.0 for every network, then with a key")
    port: int = _option(8000, "port to listen on")
    api_key: str = _option("", "key that clients must send as a bearer token; better in DEPTHUP_API_KEY")
    allow_origin: str = _option("", "origin of another web page that may use this server, as https://example.org")
    model_name: str = _option("", "name in /v1/models; by default the checkpoint's folder")
    language: str = _option("", "code of the language that is spoken; requests for another are refused")
    max_upload_mb: float = _option(100.0, "largest upload in MB")
    max_audio_minutes: float = _option(120.0, "longest recording in minutes, as decoded")
    max_requests: int = _option(64, "requests that run or wait; further ones are told to come back (429)")
    max_request_seconds: float = _option(600.0, "longest a request may take")
    max_tokens: int = _option(4096, "most tokens of a chat, the answer included")
    rows: int = _option(0, "answers written at a time; 0 is 16, on GPUs 64")
    batch_seconds: float = _option(0.0, "audio that is heard in one pass; 0 is 30 s, on GPUs 600")
    batch_wait_ms: float = _option(20.0, "how long an idle server waits for company of a request")

    def check(self) -> None:
        """Raises UserError where a value cannot be meant, or packages of the extra are missing."""
        missing = [name for name in PACKAGES if find_spec(name) is None]
        if missing:
            raise UserError(f"serve: {', '.join(missing)} not installed; pip install 'depthup[serve]'")
        for name in ("max_upload_mb", "max_audio_minutes", "max_requests", "max_request_seconds", "max_tokens"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"serve: --{name.replace('_', '-')} is a number above 0")
        for name in ("rows", "batch_seconds", "batch_wait_ms", "port"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"serve: --{name.replace('_', '-')} is 0 or more")
        if self.port > MOST_PORT:
            raise UserError(f"serve: --port is at most {MOST_PORT}, not {self.port}")
        if not self.api_key.isascii():
            raise UserError("serve: --api-key is of ASCII characters, since it travels in a header")
