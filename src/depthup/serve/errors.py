"""Errors as OpenAI's API words them; none holds a path."""

from __future__ import annotations

from typing import Any, Optional

from starlette.responses import JSONResponse, Response

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
    507: "server_error",
}


class ApiError(Exception):
    """An answer other than the one that was hoped for; `param` names the option that is at fault."""

    def __init__(
        self, status: int, message: str, param: Optional[str] = None, code: Optional[str] = None, retry: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry = status, message, param, code, retry

    def body(self) -> dict[str, Any]:
        """The error as a client sees it."""
        kind = KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The same as an HTTP response; `retry` seconds stand in Retry-After."""
        headers = {"Retry-After": str(self.retry)} if self.retry else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def crashed() -> ApiError:
    """What a client is told of an error that nobody foresaw; the log has the whole of it."""
    return ApiError(500, "the server failed at this request; its log says why", code="internal_error")


def unsupported(name: str, reason: str) -> ApiError:
    """An option that cannot be honoured."""
    return ApiError(400, f"{name}: {reason}", name, "unsupported_option")
