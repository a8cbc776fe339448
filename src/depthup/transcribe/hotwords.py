"""Names and terms that may have been said: the CTC head proposes where, the LLM or the encoder's decoder weighs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rapidfuzz.fuzz import partial_ratio

from depthup.transcribe.times import UNIT, align, align_words, labels_of

LEAST_LETTERS = 3
"""Shorter words sound like parts of too many others."""
LEAST_ALIKE = 50
"""Per cent of a hotword's letters that must be spelled somewhere for it to be looked for at all, which takes time."""
WORST_MATCH = -1.0
"""Log probability a letter that a proposal may lose, on average, against what the head spells."""
MOST_PLACES = 4
"""Places in a clip where one hotword is looked for."""

Weigh = Callable[[Sequence[str]], Sequence[float]]
"""Texts of one clip -> the log probability of each, by the LLM, or by the encoder's own decoder where it has one."""


def listed(words: str) -> list[str]:
    """The names and terms of a list with commas, or on lines of their own."""
    return [word for part in re.split(r"[,\n]", words) if (word := " ".join(part.split()))]


def with_hotwords(
    text: str, spelled: str, log_probs: np.ndarray, frame_seconds: float, hotwords: Sequence[str], weigh: Weigh
) -> str:
    """The text, with hotwords in the place of what was written where they were said.

    A hotword is proposed where the CTC head's outputs `log_probs` [L, 257], read as `spelled`, nearly spell it. It is
    taken where the text with it has more log probability, of CTC head and `weigh` together, than the one without; of
    several that are proposed the likeliest first. Texts are written without the LLM seeing the list, so that it cannot
    repeat what was not said.
    """
    alike = [word for word in hotwords if partial_ratio(word.casefold(), spelled.casefold()) >= LEAST_ALIKE]
    spots = [(hotword, *spot) for hotword in alike for spot in places(hotword, log_probs)]
    while spots:
        proposed = {spot: _placed(text, spot, log_probs, frame_seconds) for spot in spots}
        gains = _gains(text, [one for found in proposed.values() for one in found], log_probs, weigh)
        best = max(gains, key=lambda one: gains[one], default=text)
        if gains.get(best, 0.0) <= 0:
            break
        text = best
        spots = [spot for spot, found in proposed.items() if best not in found]
    return text


def places(hotword: str, log_probs: np.ndarray) -> Iterator[tuple[int, int]]:
    """Frames (first, end) where the outputs nearly spell a hotword, the nearest first.

    A path through its letters, upper or lower case, may begin and end anywhere; what it loses against the likeliest
    class of each frame is its score (keyword spotting with CTC).
    """
    letters = hotword.encode()
    if sum(map(str.isalnum, hotword)) < LEAST_LETTERS or len(log_probs) < len(letters):
        return
    emitted = _letters(letters, log_probs - log_probs.max(1, keepdims=True))
    scores, starts = _ends(emitted, letters)
    for _ in range(MOST_PLACES):
        end = int(scores.argmax())
        if scores[end] < WORST_MATCH * len(letters):
            return
        first = int(starts[end])
        yield first, end + 1
        scores[first : end + 1 + len(letters)] = -np.inf


def _letters(letters: bytes, log_probs: np.ndarray) -> np.ndarray:
    """Log probabilities [L, 2 n - 1] of the letters, in either case, with a blank between any two."""
    either = np.stack([log_probs[:, labels_of(case)] for case in (letters.lower(), letters.upper())]).max(0)
    emitted = np.repeat(log_probs[:, :1], 2 * len(letters) - 1, axis=1)
    emitted[:, ::2] = either
    return emitted


def _ends(emitted: np.ndarray, letters: bytes) -> tuple[np.ndarray, np.ndarray]:
    """For each frame the score of the best path that ends with it, and the frame where that path begins."""
    states = emitted.shape[1]
    skips = np.zeros(states, bool)
    skips[2::2] = [a != b for a, b in zip(letters, letters[1:], strict=False)]
    score, start = np.full(states, -np.inf), np.zeros(states, np.int64)
    scores, starts = np.full(len(emitted), -np.inf), np.zeros(len(emitted), np.int64)
    for t, frame in enumerate(emitted):
        one, two = np.roll(score, 1), np.where(skips, np.roll(score, 2), -np.inf)
        one[0] = 0.0  # a path begins
        came = np.argmax([score, one, two], axis=0)
        start = np.choose(came, [start, np.roll(start, 1), np.roll(start, 2)])
        start[0] = start[0] if came[0] == 0 else t
        score = np.choose(came, [score, one, two]) + frame
        scores[t], starts[t] = score[-1], start[-1]
    return scores, starts


def _placed(text: str, spot: tuple[str, int, int], log_probs: np.ndarray, frame_seconds: float) -> list[str]:
    """Texts with a hotword instead of the words whose middles lie in its frames, or of a neighbour too.

    Punctuation around them is kept.
    """
    hotword, start, end = spot
    words = align_words(text, log_probs, frame_seconds) or []
    inside = [i for i, w in enumerate(words) if start <= (w.start + w.end) / 2 / frame_seconds <= end]
    if not inside:
        return []
    spans = [found.span() for found in UNIT.finditer(text)]
    wider = [(inside[0], inside[-1]), (inside[0] - 1, inside[-1]), (inside[0], inside[-1] + 1)]
    found = []
    for first, last in wider:
        if first < 0 or last >= len(spans):
            continue
        old = text[spans[first][0] : spans[last][1]]
        before, after = re.match(r"^\W*", old), re.search(r"\W*$", old)
        kept = (before.group() if before else "", after.group() if after else "")
        if old[len(kept[0]) : len(old) - len(kept[1])].casefold() == hotword.casefold():
            return []
        found.append(text[: spans[first][0]] + kept[0] + hotword + kept[1] + text[spans[last][1] :])
    return found


def _gains(text: str, proposed: Sequence[str], log_probs: np.ndarray, weigh: Weigh) -> dict[str, float]:
    """Log probability, of CTC head and `weigh` together, that each proposal has more than the text."""
    paths = {one: align(labels_of(one.encode()), log_probs) for one in dict.fromkeys([text, *proposed])}
    spelled = {one: path.total for one, path in paths.items() if path is not None}
    if text not in spelled:
        return {}
    told = dict(zip(spelled, weigh(list(spelled)), strict=True))
    return {one: spelled[one] - spelled[text] + told[one] - told[text] for one in spelled if one != text}
