"""What a model is taught to write of what was said."""

from __future__ import annotations

import unicodedata

from depthup.config import DataConfig

KEPT = "LMN"
"""Unicode categories of letters, marks and numbers."""


def transcript(text: str, data: DataConfig) -> str:
    """A clip's text as `data.transcripts` asks for it.

    >>> transcript("Don\u2019t go -- it\u2019s 5 o\u2019clock!", DataConfig(transcripts="spoken"))
    "don't go it's 5 o'clock"
    """
    return spoken(unicodedata.normalize("NFKC", text))[0] if data.transcripts == "spoken" else text.strip()


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
