"""/v1/audio/transcriptions: a recording in, its text out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from depthup.serve.errors import ApiError
from depthup.serve.growing import Growing, heard
from depthup.serve.options import TranscriptionOptions
from depthup.serve.service import Service, service_of, streamed, while_wanted
from depthup.transcribe.formats import FORMATS
from depthup.transcribe.transcript import Segment, Transcript

router = APIRouter()
MEDIA = {"srt": "application/x-subrip", "vtt": "text/vtt", "verbose_json": "application/json"}
MAX_FIELDS = 32


@router.post("/v1/audio/transcriptions")
async def transcriptions(request: Request) -> Response:
    """As OpenAI's API has it; what it has and this server has not is refused by name."""
    service = service_of(request)
    try:
        form = await request.form(max_files=1, max_fields=MAX_FIELDS)
    except HTTPException as error:
        raise ApiError(400, f"the form cannot be read: {error.detail}") from error
    options = TranscriptionOptions.of(form)
    service.check_model(options.model)
    if options.stream:
        return await streamed(request, _events(service, options))
    transcript = await while_wanted(request, _transcript(service, options))
    return _response(transcript, options)


async def _transcript(service: Service, options: TranscriptionOptions) -> Transcript:
    growing = Growing(service, options.language)
    async for _ in _heard(service, options, growing):
        pass
    return growing.finish()


async def _events(service: Service, options: TranscriptionOptions) -> AsyncIterator[dict[str, Any]]:
    """Text as it is written, with verbose_json segments as they are settled, and at the end all of the text."""
    growing, told, segments = Growing(service, options.language), "", 0
    async for _ in _heard(service, options, growing):
        text = growing.told()
        if len(text) > len(told) and text.startswith(told):
            yield {"type": "transcript.text.delta", "delta": text[len(told) :]}
            told = text
        settled = growing.settled_segments
        if options.response_format == "verbose_json":
            for number in range(segments, len(settled)):
                yield _segment_event(number, settled[number], options.words)
            segments = len(settled)
    transcript = growing.finish()
    if transcript.text != told and transcript.text.startswith(told):
        yield {"type": "transcript.text.delta", "delta": transcript.text[len(told) :]}
    if options.response_format == "verbose_json":
        for number in range(segments, len(transcript.segments)):
            yield _segment_event(number, transcript.segments[number], options.words)
    yield {
        "type": "transcript.text.done",
        "text": transcript.text,
        "duration": transcript.duration,
        "usage": growing.usage(),
    }


def _heard(service: Service, options: TranscriptionOptions, growing: Growing) -> AsyncIterator[Growing]:
    recording = service.intake.recording(options.file.file)
    return heard(service, recording, service.prompt(options.prompt), growing, options.stream)


def _segment_event(number: int, segment: Segment, words: bool) -> dict[str, Any]:
    event: dict[str, Any] = {
        "type": "transcript.text.segment",
        "id": str(number),
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "speaker": "",
        "flagged": segment.flagged,
    }
    if words:
        event["words"] = [{"word": word.text, "start": word.start, "end": word.end} for word in segment.words]
    return event


def _response(transcript: Transcript, options: TranscriptionOptions) -> Response:
    kind = options.response_format
    if kind == "json":
        usage = {"type": "duration", "seconds": round(transcript.duration)}
        return JSONResponse({"text": transcript.text, "usage": usage})
    if kind == "text":
        return PlainTextResponse(transcript.text + "\n")
    content = FORMATS[kind](transcript)
    if kind == "verbose_json":
        told = {"words": [], **json.loads(content)}
        wanted = {"words": options.words, "segments": options.segments}
        told = {name: value for name, value in told.items() if wanted.get(name, True)}
        content = json.dumps(told, ensure_ascii=False)
    return Response(content, media_type=MEDIA[kind])
