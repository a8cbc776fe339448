"""Nothing invented: what the LLM wrote against what the CTC head spelled from the same speech."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

import numpy as np
from rapidfuzz.distance import Levenshtein

from depthup.transcribe.options import Options
from depthup.transcribe.times import align_words
from depthup.transcribe.transcript import Segment

WILD = 0.7
"""Share of letters in which what was written differs from what was spelled, from which a segment is flagged."""
LEAST_LETTERS = 2
"""Fewer letters spelled than this are no speech."""
LOOP = re.compile(r"(?<!\w)(\w.{0,60}?)(?:\W+\1){3,}(?!\w)", re.IGNORECASE | re.DOTALL)
"""The same words at least four times in a row."""


@dataclass
class Heard:
    """What came out of one clip."""

    text: str
    scores: Optional[list[float]] = None
    """The log probability of each of the LLM's tokens, where greedy decoding gave it."""
    spelled: Optional[str] = None
    """What the CTC head reads, where the model has one."""
    log_probs: Optional[np.ndarray] = None
    """[L, 257] of the CTC head."""


def judged(heard: Heard, seconds: float, ctc_rate: float, options: Options) -> Segment:
    """The segment of a clip of so many seconds.

    With a CTC head: text from a clip in which it spells nothing is dropped; a text that differs wildly from what it
    spells, or says the same over and over, is flagged, or with `fallback` replaced; words get times and confidences.
    """
    segment = Segment(0.0, round(seconds, 3), heard.text)
    if heard.scores:
        segment.confidence = round(float(np.exp(np.mean(heard.scores))), 3)
    if heard.spelled is None or heard.log_probs is None:
        segment.flagged = bool(LOOP.search(segment.text))
        return segment
    if not segment.text or _letter_count(heard.spelled) < LEAST_LETTERS:
        return Segment(0.0, round(seconds, 3), "")
    segment.flagged = difference(segment.text, heard.spelled) > WILD or bool(LOOP.search(segment.text))
    if segment.flagged and options.fallback == "ctc":
        segment.text, segment.confidence = heard.spelled, None
    segment.words = align_words(segment.text, heard.log_probs, 1 / ctc_rate) or []
    return segment


def difference(text: str, spelled: str) -> float:
    """Share of letters and digits, case aside, in which two texts differ: 0 to 1."""
    return Levenshtein.normalized_distance(_letters(text), _letters(spelled))


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _letter_count(text: str) -> int:
    return len(_letters(text))
