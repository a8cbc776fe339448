"""Names and terms that may have been said: the CTC head proposes where, the LLM or the encoder's decoder weighs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rapidfuzz.fuzz import partial_ratio

from depthup.transcribe.times import OTHER_CASE, UNIT, align, align_words, labels_of
from depthup.transcribe.transcript import Word

LEAST_LETTERS = 3
"""Shorter words sound like parts of too many others."""
LEAST_ALIKE = 50
"""Per cent of a hotword's letters that must be spelled somewhere for it to be looked for at all, which takes time."""
WORST_MATCH = -1.0
"""Log probability a letter that a proposal may lose, on average, against what the head spells."""
MOST_PLACES = 4
"""Places in a clip where one hotword is looked for."""

Spot = tuple[str, int, int]
"""A hotword, and the frames (first, end) that nearly spell it."""
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
    spots = list(places(alike, log_probs))
    while spots:
        words = align_words(text, log_probs, frame_seconds) or []
        proposed = {spot: _placed(text, words, spot, frame_seconds) for spot in spots}
        gains = _gains(text, [one for found in proposed.values() for one in found], log_probs, weigh)
        best = max(gains, key=lambda one: gains[one], default=text)
        if gains.get(best, 0.0) <= 0:
            break
        text = best
        spots = [spot for spot, found in proposed.items() if best not in found]
    return text


def places(hotwords: Sequence[str], log_probs: np.ndarray) -> Iterator[Spot]:
    """Where the outputs nearly spell a hotword, the nearest places of each first.

    A path through its letters, upper or lower case, may begin and end anywhere; what it loses against the likeliest
    class of each frame is its score (keyword spotting with CTC).
    """
    words = [word for word in hotwords if sum(map(str.isalnum, word)) >= LEAST_LETTERS]
    if not (words and len(log_probs)):
        return
    spelled = [word.encode() for word in words]
    all_scores, all_starts = _ends(spelled, log_probs - log_probs.max(1, keepdims=True))
    for word, letters, scores, starts in zip(words, spelled, all_scores.T, all_starts.T, strict=True):
        for _ in range(MOST_PLACES):
            end = int(scores.argmax())
            if scores[end] < WORST_MATCH * len(letters):
                break
            first = int(starts[end])
            yield word, first, end + 1
            scores[first : end + 1 + len(letters)] = -np.inf


def _ends(spelled: Sequence[bytes], log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each frame and word [L, N] the score of the best path that ends there, and the frame where it begins.

    States of a path are the letters with a blank between any two; all words go frame by frame together.
    """
    either = np.maximum(log_probs, log_probs[:, OTHER_CASE])
    count, most = len(spelled), max(map(len, spelled))
    states, skips = np.zeros((count, 2 * most - 1), np.int64), np.zeros((count, 2 * most - 1), bool)
    for row, letters in enumerate(spelled):
        labels = labels_of(letters)
        states[row, : 2 * len(labels) : 2] = labels
        skips[row, 2 : 2 * len(labels) : 2] = labels[1:] != labels[:-1]
    rows, last = np.arange(count), 2 * np.array([len(letters) for letters in spelled]) - 2
    score, start = np.full(states.shape, -np.inf), np.zeros(states.shape, np.int64)
    scores, starts = np.empty((len(log_probs), count)), np.empty((len(log_probs), count), np.int64)
    for t, frame in enumerate(either):
        one, two = np.roll(score, 1, axis=1), np.where(skips, np.roll(score, 2, axis=1), -np.inf)
        one[:, 0] = 0.0  # a path begins
        begun = np.roll(start, 1, axis=1)
        begun[:, 0] = t
        came = np.stack([score, one, two]).argmax(0)
        start = np.choose(came, [start, begun, np.roll(start, 2, axis=1)])
        score = np.choose(came, [score, one, two]) + frame[states]
        scores[t], starts[t] = score[rows, last], start[rows, last]
    return scores, starts


def _placed(text: str, words: Sequence[Word], spot: Spot, frame_seconds: float) -> list[str]:
    """Texts with a hotword instead of those of its `words` whose middles lie in its frames, or of a neighbour too.

    Punctuation around them is kept.
    """
    hotword, start, end = spot
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
