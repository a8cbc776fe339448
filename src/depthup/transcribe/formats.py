"""Transcripts as files that other tools read: a function for each format, and the table of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from depthup.transcribe.cues import Cue, cues
from depthup.transcribe.transcript import Segment, Transcript, Word

Formatter = Callable[[Transcript], str]


def text(transcript: Transcript) -> str:
    """A line for each segment."""
    return "".join(segment.text + "\n" for segment in transcript.segments) or "\n"


def to_json(transcript: Transcript) -> str:
    """One JSON object with all that is known."""
    return json.dumps(as_dict(transcript), ensure_ascii=False, indent=2) + "\n"


def srt(transcript: Transcript) -> str:
    """SubRip subtitles: a number, the times and the lines of each cue."""
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_joined(cue)}\n"
        for number, cue in enumerate(cues(transcript), start=1)
    )


def vtt(transcript: Transcript) -> str:
    """WebVTT subtitles (W3C). What would begin a tag is escaped."""
    told = (
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n"
        f"{_joined(cue).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}\n"
        for cue in cues(transcript)
    )
    return "\n".join(["WEBVTT\n", *told])


def tsv(transcript: Transcript) -> str:
    """Tab-separated start and end in milliseconds and text, under a header, as Whisper writes it."""
    lines = (
        f"{round(1000 * s.start)}\t{round(1000 * s.end)}\t{' '.join(s.text.split())}\n" for s in transcript.segments
    )
    return "".join(["start\tend\ttext\n", *lines])


def verbose_json(transcript: Transcript) -> str:
    """The object that OpenAI's transcription API calls `verbose_json`; `words` where words have times."""
    words = [word for segment in transcript.segments for word in segment.words]
    told: dict[str, Any] = {
        "task": "transcribe",
        "language": transcript.language,
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": [_verbose_segment(n, segment) for n, segment in enumerate(transcript.segments)],
    }
    if words:
        told["words"] = [_verbose_word(word) for word in words]
    return json.dumps(told, ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Formatter] = {
    "text": text,
    "json": to_json,
    "srt": srt,
    "vtt": vtt,
    "tsv": tsv,
    "verbose_json": verbose_json,
}
SUFFIXES = {"text": "txt", "verbose_json": "json"}
"""Of the files that hold a format, where it is not the format's name."""


def as_dict(transcript: Transcript) -> dict[str, Any]:
    """Plain data; an error and a channel stand there only where there is one."""
    optional = ("error", "channel")
    return {name: value for name, value in asdict(transcript).items() if name not in optional or value is not None}


def summary(transcripts: Sequence[Transcript], seconds: float) -> dict[str, Any]:
    """Several transcripts and timing as plain data: `seconds` is the wall-clock time that they took.

    `rtf` is the real-time factor, wall-clock time per time of audio; null without audio.
    """
    audio_seconds = sum(transcript.duration for transcript in transcripts)
    return {
        "files": [as_dict(transcript) for transcript in transcripts],
        "audio_seconds": round(audio_seconds, 3),
        "wall_seconds": round(seconds, 3),
        "rtf": round(seconds / audio_seconds, 4) if audio_seconds else None,
    }


def _verbose_segment(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": number,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "confidence": segment.confidence,
        "flagged": segment.flagged,
    }


def _verbose_word(word: Word) -> dict[str, Any]:
    return {"word": word.text, "start": word.start, "end": word.end, "confidence": word.confidence}


def _joined(cue: Cue) -> str:
    return "\n".join(cue.lines)


def _clock(seconds: float, point: str) -> str:
    """01:02:03,456 with the decimal point of the format."""
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{whole:02}{point}{milliseconds:03}"
