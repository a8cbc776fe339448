"""Transcripts in lower case without punctuation, as Whisper's decoder would write the same words.

A decoder that is taught "hawaiians like surfing" must unlearn that it knows "Hawaiians like surfing.", and spells what
it has no token for. So it is taught the words that were said, in the style in which it would write them itself.
"""

from __future__ import annotations

ENDS = (".", "?", "!")
"""Marks that may end a transcript; within one, a capital follows them."""
MARKS = (",", *ENDS)


def written(words: list[str], scores: list[list[float]], likeliest: list[float]) -> str:
    """Words by scores of [as it is, with a capital, *MARKS] at each of them and [end, end, *MARKS] behind the last.

    `likeliest` is the highest score of any token there.
    """
    text, mark = "", ""
    for word, (plain, great, *marks), most in zip(words, scores, likeliest, strict=False):
        mark = next((m for m, score in zip(MARKS, marks, strict=True) if text and score >= most), "")
        text += mark + " " * bool(text)
        text += capital(word) if mark in ENDS or great > plain else word
    last, _, _, *ends = scores[-1]
    best = max(ends)
    return text + (ENDS[ends.index(best)] if best > last else "")


def capital(word: str) -> str:
    """With a capital in front, where that can be told from none by its case alone, unlike a Turkish dotless i.

    >>> capital("o'clock"), capital("\u0131rmak") == "\u0131rmak"
    ("O'clock", True)
    """
    written = word[:1].upper() + word[1:]
    return written if written.lower() == word.lower() else word
