"""What a model is taught to write of what was said."""

from __future__ import annotations

import re
import unicodedata

from depthup.config import DataConfig

NO_WORD = re.compile(r"[^\w\s']|_")
LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")


def transcript(text: str, data: DataConfig) -> str:
    """A clip's text as `data.transcripts` asks for it.

    >>> transcript("Don\u2019t go -- it\u2019s 5 o\u2019clock!", DataConfig(transcripts="spoken"))
    "don't go it's 5 o'clock"
    """
    if data.transcripts == "as_is":
        return text.strip()
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    # A letter may carry marks that have no composed form.
    plain = "".join(c if unicodedata.category(c).startswith("M") else NO_WORD.sub(" ", c) for c in plain)
    return " ".join(LOOSE_APOSTROPHE.sub(" ", plain).split())
