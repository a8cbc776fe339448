"""Chat templates of text LLMs, made to take recordings."""

from __future__ import annotations

from typing import Union

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
