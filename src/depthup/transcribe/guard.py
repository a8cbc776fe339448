"""Nothing invented: what the LLM wrote against what the CTC head spelled from the same speech."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

import numpy as np
from rapidfuzz.distance import Levenshtein

from depthup.model.connectors import Speech
from depthup.transcribe.options import Options
from depthup.transcribe.times import align_words
from depthup.transcribe.transcript import Segment

WILD = 0.7
"""Share of letters in which what was written differs from what was spelled, from which a segment is flagged."""
LOOP = re.compile(r"(?<!\w)(\w.{0,60}?)(?:\W+\1){3,}(?!\w)", re.IGNORECASE | re.DOTALL)
"""The same words at least four times in a row."""
ENDLESS = re.compile(LOOP.pattern.replace("{3,}", "{7,}"), LOOP.flags)
"""At least eight times, which people do not say."""


@dataclass
class Heard:
    """What came out of one clip."""

    text: str = ""
    scores: Optional[list[float]] = None
    """The log probability of each of the LLM's tokens, where greedy decoding gave it."""
    spelled: Optional[str] = None
    """What the CTC head reads, where the model has one."""
    log_probs: Optional[np.ndarray] = None
    """[L, 257] of the CTC head."""
    draft: Optional[str] = None
    """What the front end read to the LLM, where the model's connector makes drafts."""


def heard_in(speech: Speech) -> list[Heard]:
    """What the front end tells of each recording; the LLM's text is not in it yet."""
    count = len(speech.lengths)
    drafts: list[Optional[str]] = [*speech.texts] if speech.texts else [None] * count
    spelled = speech.spelled()
    if spelled is None:
        return [Heard(draft=draft) for draft in drafts]
    assert speech.ctc_log_probs is not None and speech.ctc_lengths is not None
    rows = zip(spelled, speech.ctc_log_probs.float().cpu().numpy(), speech.ctc_lengths.tolist(), drafts, strict=True)
    return [Heard("", None, text, log_probs[:length], draft) for text, log_probs, length, draft in rows]


def judged(heard: Heard, seconds: float, ctc_rate: float, options: Options) -> Segment:
    """The segment of a clip of so many seconds.

    Text is dropped where the front end made out nothing: its draft is empty, or its CTC head spells no letter. A
    text that differs wildly from either, or says the same over and over, is flagged, or with `fallback` replaced. Where
    the LLM repeats what its draft does not, the draft is written; else what does not stop is cut behind its first time.
    With a CTC head words get times and confidences.
    """
    segment = Segment(0.0, round(seconds, 3), heard.text)
    told = [text for text in (heard.draft, heard.spelled) if text is not None]
    if not segment.text or not all(map(_letters, told)):
        segment.text = ""
        return segment
    if heard.scores:
        segment.confidence = round(float(np.exp(np.mean(heard.scores))), 3)
    wild = any(difference(segment.text, text) > WILD for text in told)
    loops = bool(LOOP.search(segment.text))
    segment.flagged = wild or loops
    instead = heard.spelled if options.fallback == "ctc" else heard.draft if options.fallback == "draft" else None
    if instead is None and loops and heard.draft and not LOOP.search(heard.draft):
        instead = heard.draft
    if segment.flagged and instead is not None:
        segment.text, segment.confidence = instead, None
    segment.text = ENDLESS.sub(r"\1", segment.text)
    if heard.log_probs is not None:
        segment.words = align_words(segment.text, heard.log_probs, 1 / ctc_rate) or []
    return segment


def difference(text: str, spelled: str) -> float:
    """Share of letters and digits, case aside, in which two texts differ: 0 to 1."""
    return Levenshtein.normalized_distance(_letters(text), _letters(spelled))


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
