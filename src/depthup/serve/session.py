"""Options of a live session, in OpenAI's form: honoured, or refused by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Optional

from depthup.serve.errors import ApiError, unsupported

RATES = (8000, 48000)
"""Hz between which a client's PCM may lie; OpenAI's clients send 24000."""
PAUSE_MS = (200, 5000)


@dataclass(frozen=True)
class SessionOptions:
    """What a client may set by `session.update`; what it does not name stays as it was."""

    model: str
    rate: int = 24000
    language: Optional[str] = None
    prompt: Optional[str] = None
    pauses: bool = True
    """Whether the server hears pauses; otherwise the client commits."""
    pause_ms: int = 500

    def told(self) -> dict[str, Any]:
        """As a client sees them."""
        detection = {"type": "server_vad", "silence_duration_ms": self.pause_ms} if self.pauses else None
        transcription = {"model": self.model, "language": self.language, "prompt": self.prompt}
        audio = {
            "format": {"type": "audio/pcm", "rate": self.rate},
            "transcription": transcription,
            "turn_detection": detection,
        }
        return {"type": "transcription", "object": "realtime.transcription_session", "audio": {"input": audio}}

    def updated(self, session: Any) -> SessionOptions:
        """With the client's changes. Raises ApiError, which names what is at fault."""
        session = _object(session, "session")
        _only(session, "session", ("type", "audio", "include"))
        if session.get("type", "transcription") != "transcription":
            raise unsupported("session.type", "only transcription is served")
        if session.get("include"):
            raise unsupported("session.include", "the server keeps no probabilities of tokens")
        audio = _object(session.get("audio"), "session.audio")
        _only(audio, "session.audio", ("input",))
        where, given = "session.audio.input", _object(audio.get("input"), "session.audio.input")
        _only(given, where, ("format", "transcription", "turn_detection", "noise_reduction"))
        if given.get("noise_reduction"):
            raise unsupported(f"{where}.noise_reduction", "the server has none; leave it out")
        changed = self
        if given.get("format") is not None:
            changed = replace(changed, rate=_rate(_object(given["format"], f"{where}.format"), f"{where}.format"))
        if given.get("transcription") is not None:
            changed = changed._transcription(_object(given["transcription"], where), f"{where}.transcription")
        if "turn_detection" in given:
            changed = changed._pauses(given["turn_detection"], f"{where}.turn_detection")
        return changed

    def _transcription(self, given: dict[str, Any], where: str) -> SessionOptions:
        _only(given, where, ("model", "language", "prompt"))
        texts = {name: value for name, value in given.items() if value is not None}
        for name, value in texts.items():
            if not isinstance(value, str):
                raise ApiError(400, f"{where}.{name}: is a text", f"{where}.{name}")
        return replace(self, **texts)

    def _pauses(self, given: Any, where: str) -> SessionOptions:
        if given is None:
            return replace(self, pauses=False)
        given = _object(given, where)
        if given.get("type", "server_vad") != "server_vad":
            raise unsupported(f"{where}.type", "only server_vad is served")
        _only(given, where, ("type", "silence_duration_ms"))
        pause = given.get("silence_duration_ms", self.pause_ms)
        if not isinstance(pause, int) or not PAUSE_MS[0] <= pause <= PAUSE_MS[1]:
            name = f"{where}.silence_duration_ms"
            raise ApiError(400, f"{name}: is a whole number from {PAUSE_MS[0]} to {PAUSE_MS[1]}", name)
        return replace(self, pauses=True, pause_ms=pause)


def _rate(given: dict[str, Any], where: str) -> int:
    _only(given, where, ("type", "rate"))
    if given.get("type", "audio/pcm") != "audio/pcm":
        raise unsupported(f"{where}.type", "only audio/pcm is served")
    rate = given.get("rate", 24000)
    if not isinstance(rate, int) or not RATES[0] <= rate <= RATES[1]:
        raise ApiError(400, f"{where}.rate: is a whole number from {RATES[0]} to {RATES[1]}", f"{where}.rate")
    return rate


def _object(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ApiError(400, f"{where}: is an object", where)
    return value


def _only(given: dict[str, Any], where: str, known: tuple[str, ...]) -> None:
    for name, value in given.items():
        if name not in known and value is not None:
            raise unsupported(f"{where}.{name[:60]}", "this server does not know it")
