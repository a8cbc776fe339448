"""Chat templates and conversations of text LLMs, made to take recordings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Union

import numpy as np

from depthup.config import AUDIO_MARKER

Templates = Union[str, dict[str, str], None]

_HEAD = (
    """\
{#- Contents made of parts become text, with a marker in the place of each recording. -#}
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is defined and message['content'] is not string and message['content'] is iterable -%}
{%- set content = namespace(text='') -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'audio' -%}{%- set content.text = content.text + '"""
    + AUDIO_MARKER
    + """' -%}
{%- elif part['type'] == 'text' -%}{%- set content.text = content.text + part['text'] -%}
{%- else -%}{{- raise_exception('parts of a message are audio and text, not ' ~ part['type']) -}}
{%- endif -%}
{%- endfor -%}
{%- set flat.messages = flat.messages + [dict(message, content=content.text)] -%}
{%- else -%}
{%- set flat.messages = flat.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""
)


def with_audio(template: Templates) -> Templates:
    """The same chat template, or templates by name, for messages whose content may be a list of text and audio."""
    if isinstance(template, dict):
        return {name: _with_head(inner) for name, inner in template.items()}
    return template and _with_head(template)


def _with_head(template: str) -> str:
    return template if template.startswith(_HEAD) else _HEAD + template


def with_recordings(conversation: Any, read: Callable[[Any], np.ndarray]) -> Any:
    """The conversation, or conversations, with the samples of each recording under `audio`."""
    if conversation and isinstance(conversation[0], (list, tuple)):
        return [with_recordings(one, read) for one in conversation]

    def part_of(part: dict[str, Any]) -> dict[str, Any]:
        found = [part[key] for key in ("audio", "path", "url") if part.get(key) is not None]
        return {"type": "audio", "audio": read(found[0])} if part["type"] == "audio" and found else part

    return [
        {**message, "content": [part_of(part) for part in message["content"]]}
        if isinstance(message.get("content"), (list, tuple))
        else message
        for message in conversation
    ]
