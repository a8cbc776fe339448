"""Transcripts in lower case without punctuation, as Whisper's decoder would write the same words.

A decoder that is taught "hawaiians like surfing" must unlearn that it knows "Hawaiians like surfing.", and spells what
it has no token for. So it is taught the words that were said, in the style in which it would write them itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Optional

import torch

ENDS = (".", "?", "!")
"""Marks that may end a transcript; within one, a capital follows them."""
MARKS = (",", *ENDS)


@torch.no_grad()
def styled(
    writer: Any,
    model: Any,
    frames: torch.Tensor,
    lengths: torch.Tensor,
    texts: Sequence[Optional[str]],
    languages: Optional[torch.Tensor] = None,
) -> list[Optional[str]]:
    """N transcripts with the decoder's own capitals and punctuation; None stays.

    One pass over each transcript: a word gets a capital where that is likelier, and a mark before it where no token is
    likelier than the mark. `writer` is the `Writer` of the decoder in `model`; `frames` [N, T, width] and `lengths` [N]
    are of their recordings; `languages` as for `Writer.beginning`.
    """
    rows = [(text or "").split() for text in texts]
    forms = sorted({form for row in rows for word in row for form in (word, capital(word))})
    tokens: dict[str, list[int]] = dict(zip(forms, _tokens(writer, [f" {form}" for form in forms]), strict=True))
    marks, end = [ids[0] for ids in _tokens(writer, MARKS)], writer.tokenizer.eos_token_id
    # The first word has its capital, so that what follows is judged as the rest of a sentence.
    begun = [[*map(capital, row[:1]), *row[1:]] for row in rows]
    states, _ = writer.teacher_forced(model, frames, lengths, [" ".join(row) for row in begun], languages)
    found = []
    for text, row, told, given in zip(texts, rows, begun, states, strict=True):
        places = [0, *itertools.accumulate(len(tokens[word]) for word in told)]
        asked = [[tokens[word][0], tokens[capital(word)][0], *marks] for word in row] + [[end, end, *marks]]
        logits = writer.logits(model, given[places])
        scores = logits.gather(-1, torch.tensor(asked, device=logits.device))
        found.append(text and _written(row, scores.tolist(), logits.amax(-1).tolist()))
    return found


def _written(words: list[str], scores: list[list[float]], likeliest: list[float]) -> str:
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


def _tokens(writer: Any, texts: Sequence[str]) -> list[list[int]]:
    return writer.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def capital(word: str) -> str:
    """With a capital in front, where that can be told from none by its case alone, unlike a Turkish dotless i.

    >>> capital("o'clock"), capital("\u0131rmak") == "\u0131rmak"
    ("O'clock", True)
    """
    written = word[:1].upper() + word[1:]
    return written if written.lower() == word.lower() else word
