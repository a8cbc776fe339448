"""What a model is asked about a clip, and taught to write of it."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any

from depthup.config import AUDIO_MARKER, DataConfig
from depthup.errors import UserError

if TYPE_CHECKING:
    from lhotse.cut import Cut

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana, Han."""
UNIT = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}]+")
"""A word, or a character of a script that puts no spaces between words."""
KEPT = "LMN"
"""Unicode categories of letters, marks and numbers."""
PROMPT = "prompt"
"""The field of a clip with what is asked about it in place of the recipe's prompt; its text is then the answer."""


def prompt_of(cut: Cut) -> str | None:
    """A clip's own prompt, where it has one."""
    return (cut.supervisions[0].custom or {}).get(PROMPT) or None


def prompt_and_answer(cut: Cut, data: DataConfig) -> tuple[str | None, str]:
    """A clip's own prompt and the answer as it stands, or None and the transcript."""
    prompt, text = prompt_of(cut), str(cut.supervisions[0].text)
    return prompt, text.strip() if prompt else transcript(text, data)


def transcript(text: str, data: DataConfig) -> str:
    """A clip's text as `data.transcripts` asks for it.

    >>> transcript("Don\u2019t go -- it\u2019s 5 o\u2019clock!", DataConfig(transcripts="spoken"))
    "don't go it's 5 o'clock"
    """
    return spoken(unicodedata.normalize("NFKC", text))[0] if data.transcripts == "spoken" else text.strip()


def check_characters(told: Any, where: str) -> None:
    """Raises UserError for half of a character, which no tokenizer takes and no file can hold."""
    try:
        json.dumps(told, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise UserError(f"{where}: {half!r} is half of a character; write the text again") from None


def check_text(text: Any, where: str, field: str = "text", may_be_empty: bool = False) -> None:
    """Raises UserError unless `text` is a transcript."""
    if text is None:
        raise UserError(f"{where}: no field `{field}`; add the transcript, or name its field with data.text_field")
    if not isinstance(text, str) or not (text.strip() or may_be_empty):
        raise UserError(f"{where}: `{field}` must be a transcript that is not empty, not {text!r}; remove the clip")
    check_characters(text, where)


def check_prompt(prompt: Any, where: str) -> None:
    """Raises UserError unless a clip has no prompt, or one with a place for the recording."""
    if prompt in (None, ""):
        return
    if not isinstance(prompt, str) or prompt.count(AUDIO_MARKER) != 1:
        raise UserError(
            f"{where}: `{PROMPT}` must hold {AUDIO_MARKER} once, in the recording's place, and {prompt!r} does not; "
            "write it there, or list the field in data.ignore_fields"
        )
    check_characters(prompt, where)


def spoken(text: str) -> tuple[str, list[int]]:
    """Lower case without punctuation but apostrophes within words; and for each character where in `text` it stood."""
    kept, places = "", []
    for place, character in enumerate(text):
        if _within_word(text, place):
            written = "'"
        else:
            written = character.lower() if unicodedata.category(character)[0] in KEPT else " "
        if written == " " and (not kept or kept[-1] == " "):
            continue
        kept += written
        places += [place] * len(written)
    length = len(kept.rstrip())
    return kept[:length], places[:length]


def _within_word(text: str, place: int) -> bool:
    """Whether an apostrophe stands here, with letters or numbers on both sides."""
    around = text[max(0, place - 1) : place] + text[place + 1 : place + 2]
    return text[place] in "'\u2019" and len(around) == 2 and all(unicodedata.category(c)[0] in KEPT for c in around)
