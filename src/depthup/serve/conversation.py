"""The messages of a chat as a prompt, with its recordings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from depthup.config import AUDIO_MARKER
from depthup.serve.audio import from_base64
from depthup.serve.engine import TOKENS_PER_SECOND
from depthup.serve.errors import ApiError, unsupported
from depthup.serve.options import MAX_ANSWER, ChatOptions
from depthup.serve.rows import Row
from depthup.serve.service import Service

ROLES = ("system", "developer", "user", "assistant")
MESSAGE_KEYS = {"role", "content", "name", "refusal"}


class Conversation:
    """Messages in OpenAI's form, checked; the base's own chat template makes the prompt of them."""

    def __init__(self, service: Service, options: ChatOptions) -> None:
        """Raises ApiError, which names the message that is at fault."""
        self._service, self._options = service, options
        self._encoded: list[tuple[str, str]] = []
        if not service.processor.tokenizer.chat_template:
            raise ApiError(400, "messages: the base of this model has no chat template", "messages", "no_chat_template")
        self._messages = [self._message(n, message) for n, message in enumerate(options.messages)]

    async def rows(self) -> AsyncIterator[Row]:
        """The one row of the chat."""
        audio: list[np.ndarray] = []
        counts = []
        for data, param in self._encoded:
            recording = self._service.intake.recording(from_base64(data, param), vad="none")
            before = len(audio)
            async for piece in recording.pieces():
                audio.append(piece.samples[piece.shared :])
                self._check_room(0, sum(map(len, audio)))
            counts.append(len(audio) - before)
        waiting = iter(counts)
        messages = [
            {**m, "content": "".join(p if p is not None else AUDIO_MARKER * next(waiting) for p in m["content"])}
            for m in self._messages
        ]
        prompt = self._prompt(messages)
        words = len(self._service.processor.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        room = self._check_room(words, sum(map(len, audio)))
        limit = min(self._options.max_tokens or MAX_ANSWER, room)
        yield Row(prompt, audio, limit, self._service.settings.max_tokens - room, transcript=False)

    def _prompt(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self._service.processor.apply_chat_template(messages, add_generation_prompt=True)
        except Exception as error:  # templates refuse in ways of their own, such as two messages of one role in a row
            raise ApiError(400, f"messages: the base's chat template refuses them ({error})", "messages") from error

    def _check_room(self, words: int, samples: int) -> int:
        """Tokens that are left for the answer."""
        seconds = samples / self._service.processor.sampling_rate
        most = self._service.settings.max_tokens
        room = most - words - int(TOKENS_PER_SECOND * seconds)
        if room < (self._options.max_tokens or 1):
            raise ApiError(
                400,
                f"messages: with the answer they take more than {most} tokens; send less, or a lower max_tokens",
                "messages",
                "context_length_exceeded",
            )
        return room

    def _message(self, number: int, message: dict[str, Any]) -> dict[str, Any]:
        """Role, and content as a list of texts, with None where a recording stands."""
        where = f"messages[{number}]"
        for key, value in message.items():
            if key not in MESSAGE_KEYS and value is not None:
                raise unsupported(f"{where}.{key}", "this server does not know it")
        role = message.get("role")
        if role not in ROLES:
            raise unsupported(f"{where}.role", f"is none of {', '.join(ROLES)}")
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list):
            raise ApiError(400, f"{where}.content: give a text or a list of parts", f"{where}.content")
        found = [self._part(f"{where}.content[{n}]", part) for n, part in enumerate(parts)]
        return {"role": "system" if role == "developer" else role, "content": found}

    def _part(self, where: str, part: Any) -> str | None:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            if AUDIO_MARKER in part["text"]:
                raise ApiError(400, f"{where}: holds {AUDIO_MARKER}, which stands for a recording; leave it out", where)
            return part["text"]
        if kind == "input_audio":
            audio = part.get("input_audio")
            if not isinstance(audio, dict) or not isinstance(audio.get("data"), str):
                raise ApiError(400, f"{where}.input_audio: give data, a recording in base64", where)
            self._encoded.append((audio["data"], f"{where}.input_audio.data"))
            return None
        raise unsupported(f"{where}.type", "is neither text nor input_audio")
