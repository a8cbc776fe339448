"""Options of requests: every one is honoured or refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from starlette.datastructures import FormData, UploadFile

from depthup.serve.errors import ApiError, unsupported
from depthup.transcribe.formats import FORMATS

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("segment", "word")
REFUSED_FORM = {
    "include": "the server keeps no probabilities of tokens",
    "languages": "the model is not told a choice of languages; give one as language",
    "keywords": "the model takes no list of words",
    "known_speaker_names": "the model does not tell speakers apart",
    "known_speaker_references": "the model does not tell speakers apart",
}
MAX_ANSWER = 1024
"""Tokens of a chat's answer where the request does not say."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (0,),
    "top_p": (1,),
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "service_tier": ("auto", "default"),
    "top_logprobs": (0,),
}
"""Options of a chat that may say what is done anyway: the likeliest token each time, one answer, of text."""
FREE = ("seed", "user", "metadata", "safety_identifier", "prompt_cache_key")
"""Options that change nothing where every answer is the likeliest one and nothing is kept."""
assert set(RESPONSE_FORMATS) <= set(FORMATS)


@dataclass(frozen=True)
class TranscriptionOptions:
    """Of /v1/audio/transcriptions."""

    file: UploadFile
    model: str
    response_format: str = "json"
    language: Optional[str] = None
    prompt: Optional[str] = None
    stream: bool = False
    words: bool = False
    segments: bool = True

    @classmethod
    def of(cls, form: FormData) -> TranscriptionOptions:
        """Raises ApiError, which names the field."""
        fields = {name.removesuffix("[]"): form.getlist(name) for name in form}
        for name, reason in REFUSED_FORM.items():
            if any(fields.pop(name, [])):
                raise unsupported(name, reason)
        granularities = [str(value) for value in fields.pop("timestamp_granularities", [])]
        twice = [name for name, values in fields.items() if len(values) > 1]
        if twice:
            raise ApiError(400, f"{twice[0]}: is given more than once", twice[0])
        single = {name: values[0] for name, values in fields.items()}
        file = single.pop("file", None)
        if not isinstance(file, UploadFile):
            raise ApiError(400, "file: send the recording as a file", "file")
        texts = {name: str(value) for name, value in single.items()}
        found = cls(
            file,
            _required(texts, "model"),
            _choice(texts, "response_format", RESPONSE_FORMATS, "json"),
            texts.pop("language", "") or None,
            texts.pop("prompt", "") or None,
            _choice(texts, "stream", ("true", "false"), "false") == "true",
            "word" in granularities,
            "segment" in granularities or not granularities,
        )
        _only_zero(texts)
        if _choice(texts, "chunking_strategy", ("auto",), "auto") and texts:
            raise _unknown(next(iter(texts)))
        found._check(granularities)
        return found

    def _check(self, granularities: list[str]) -> None:
        name = "timestamp_granularities"
        for value in granularities:
            if value not in GRANULARITIES:
                raise ApiError(400, f"{name}: {value!r} is none of {', '.join(GRANULARITIES)}", name)
        if granularities and self.response_format != "verbose_json":
            raise ApiError(400, f"{name}: needs response_format verbose_json", name)
        if self.stream and self.response_format not in ("json", "text", "verbose_json"):
            raise unsupported("stream", f"is not possible with response_format {self.response_format}; use json")


@dataclass(frozen=True)
class ChatOptions:
    """Of /v1/chat/completions."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool = False
    with_usage: bool = False
    max_tokens: Optional[int] = None
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, body: Any) -> ChatOptions:
        """Raises ApiError, which names the field."""
        if not isinstance(body, dict):
            raise ApiError(400, "the body is not a JSON object")
        left = {name: value for name, value in body.items() if value is not None and name not in FREE}
        model, messages = left.pop("model", None), left.pop("messages", None)
        if not isinstance(model, str):
            raise ApiError(400, "model: give the name of a model", "model")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise ApiError(400, "messages: give a list of messages", "messages")
        stream, streaming = left.pop("stream", False), left.pop("stream_options", {})
        if not isinstance(stream, bool):
            raise ApiError(400, "stream: is true or false", "stream")
        if not isinstance(streaming, dict) or set(streaming) - {"include_usage"}:
            raise unsupported("stream_options", "knows include_usage alone")
        most = [_positive(left, name) for name in ("max_completion_tokens", "max_tokens") if name in left]
        stop = left.pop("stop", [])
        stop = [stop] if isinstance(stop, str) else stop
        if not isinstance(stop, list) or not all(isinstance(s, str) and s for s in stop):
            raise ApiError(400, "stop: give a text or several", "stop")
        for name, value in left.items():
            if name not in NEUTRAL:
                raise _unknown(name)
            if value not in NEUTRAL[name]:
                raise unsupported(name, f"only {NEUTRAL[name][0]!r} is supported")
        with_usage = bool(streaming.get("include_usage"))
        return cls(model, messages, stream, with_usage, most[0] if most else None, tuple(stop))


def _required(texts: dict[str, str], name: str) -> str:
    value = texts.pop(name, "")
    if not value:
        raise ApiError(400, f"{name}: is missing", name)
    return value


def _choice(texts: dict[str, str], name: str, known: tuple[str, ...], default: str) -> str:
    value = texts.pop(name, "") or default
    if value not in known:
        raise unsupported(name, f"{value[:50]!r} is none of {', '.join(known)}")
    return value


def _only_zero(texts: dict[str, str]) -> None:
    value = texts.pop("temperature", "") or "0"
    try:
        number = float(value)
    except ValueError as error:
        raise ApiError(400, f"temperature: {value[:50]!r} is no number", "temperature") from error
    if number != 0:
        raise unsupported("temperature", "only 0 is supported: the likeliest text is written")


def _positive(left: dict[str, Any], name: str) -> int:
    value = left.pop(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ApiError(400, f"{name}: is a whole number above 0", name)
    return value


def _unknown(name: str) -> ApiError:
    return unsupported(name[:100], "this server does not know this option")
