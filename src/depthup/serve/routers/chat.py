"""/v1/chat/completions: text and recordings in, an answer out."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Optional

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from depthup.serve.conversation import Conversation
from depthup.serve.errors import ApiError
from depthup.serve.options import ChatOptions
from depthup.serve.rows import Answer
from depthup.serve.service import Service, service_of, streamed, while_wanted

router = APIRouter()


@router.post("/v1/chat/completions")
async def completions(request: Request) -> Response:
    """As OpenAI's API has it, always with the likeliest answer; what this server has not is refused by name."""
    service = service_of(request)
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "the body is not JSON") from error
    options = ChatOptions.of(body)
    service.check_model(options.model)
    chat = _Chat(service, options)
    if options.stream:
        return await streamed(request, chat.chunks())
    return JSONResponse(await while_wanted(request, chat.whole()))


@dataclass
class _Said:
    """The text so far, why it ended (None before that), and its tokens."""

    text: str = ""
    reason: Optional[str] = None
    usage: dict[str, int] = field(default_factory=dict)


class _Chat:
    """One request: its answer whole, or in chunks."""

    def __init__(self, service: Service, options: ChatOptions) -> None:
        self.service, self.options = service, options
        self.head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": options.model,
        }

    async def whole(self) -> dict[str, Any]:
        said = _Said()
        async for said in self._said():  # noqa: B007  # the last one counts
            pass
        message = {"role": "assistant", "content": said.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": said.reason, "logprobs": None}
        return {**self.head, "object": "chat.completion", "choices": [choice], "usage": said.usage}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        said, told, begun = _Said(), "", False
        async for said in self._said():
            if not begun:
                yield self._chunk({"role": "assistant", "content": ""})
                begun = True
            if len(said.text) > len(told):
                yield self._chunk({"content": said.text[len(told) :]})
                told = said.text
        yield self._chunk({}, said.reason)
        if self.options.with_usage:
            yield {**self._chunk({}), "choices": [], "usage": said.usage}

    def _chunk(self, delta: dict[str, str], reason: Any = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return {**self.head, "object": "chat.completion.chunk", "choices": [choice]}

    async def _said(self) -> AsyncIterator[_Said]:
        conversation = Conversation(self.service, self.options)
        partial = self.options.stream or bool(self.options.stop)
        answers: Any = self.service.engine.work(partial).answers(conversation.rows())
        try:
            async for answer in answers:
                said = self._ended(answer)
                yield said
                if said.reason is not None:
                    return
        finally:
            await answers.aclose()

    def _ended(self, answer: Answer) -> _Said:
        """The text up to the first stop sequence, without what may become one."""
        read, written = answer.row.prompt_tokens, answer.tokens
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        stops = [at for at in (answer.text.find(stop) for stop in self.options.stop) if at >= 0]
        if stops:
            return _Said(answer.text[: min(stops)], "stop", usage)
        if answer.through:
            return _Said(answer.text, "length" if answer.cut else "stop", usage)
        held = max((_begun(answer.text, stop) for stop in self.options.stop), default=0)
        return _Said(answer.text[: len(answer.text) - held], None, usage)


def _begun(text: str, stop: str) -> int:
    """How many of the last characters of a text are the first ones of a stop sequence."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
