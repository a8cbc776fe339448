"""When each word was said: its bytes aligned to what the CTC head spells, frame by frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from depthup.data.transcripts import UNIT
from depthup.transcribe.transcript import Segment, Word

LETTER_SECONDS = 0.04
"""A head spells a letter so long after it begins, and before it ends: measured on speech whose word times are known."""
OTHER_CASE = np.array([0, *(byte + 1 for byte in bytes(range(256)).swapcase())])
"""For each class that of the same letter in the other case: heads that spell lower case alone align what is cased."""
FLOOR = -12.0
"""Least log probability of a byte in a frame, so that one that the head cannot spell does not move its neighbours."""


class Path(NamedTuple):
    """A CTC path through labels [n]: for each its first frame, the one after its last, and its best log probability."""

    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray
    total: float
    """Log probability of the whole path."""


def align_words(text: str, log_probs: np.ndarray, frame_seconds: float) -> list[Word] | None:
    """The words of a text with times from the beginning of a clip, and how sure the CTC head is of each.

    Args:
        log_probs: [L, 257] of the clip, class 0 the blank and b + 1 the byte b. frame_seconds: what one of L lasts.

    A word lasts from its first byte to its last, each of which is taken to last a little to both sides of the frames
    that spell it; confidence is the geometric mean of its bytes' probabilities in their likeliest frames. None where L
    is too short for the text.
    """
    path = align(labels_of(text.encode()), log_probs)
    if path is None:
        return None
    words: list[Word] = []
    for found in UNIT.finditer(text):
        first = len(text[: found.start()].encode())
        last = first + len(found.group().encode()) - 1
        start = max(0.0, frame_seconds * int(path.starts[first]) - LETTER_SECONDS)
        end = min(frame_seconds * len(log_probs), frame_seconds * int(path.ends[last]) + LETTER_SECONDS)
        if words and start < words[-1].end:
            start = words[-1].end = round((start + words[-1].end) / 2, 3)
        confidence = float(np.exp(path.scores[first : last + 1].mean()))
        words.append(Word(round(start, 3), round(end, 3), found.group(), round(confidence, 3)))
    return words


def labels_of(spelled: bytes) -> np.ndarray:
    """The CTC head's classes [n] of bytes."""
    return np.frombuffer(spelled, np.uint8).astype(np.int64) + 1


def align(labels: np.ndarray, log_probs: np.ndarray) -> Path | None:
    """The likeliest CTC path through labels [n], given log_probs [L, 257].

    Viterbi over blanks and labels (Graves et al. 2006, section 4.1); a Latin letter is as likely as its likelier case.
    None where no path has room for all labels.
    """
    frames, n = len(log_probs), len(labels)
    if n == 0 or frames < n + int((labels[1:] == labels[:-1]).sum()):
        return None
    states = np.zeros(2 * n + 1, np.int64)
    states[1::2] = labels
    emitted = np.maximum(np.maximum(log_probs[:, states], log_probs[:, OTHER_CASE[states]]), FLOOR)
    may_skip = np.zeros(2 * n + 1, bool)
    may_skip[3::2] = labels[1:] != labels[:-1]
    score = np.full(2 * n + 1, -np.inf)
    score[:2] = emitted[0, :2]
    steps = np.zeros((frames, 2 * n + 1), np.int8)  # how many states back a path comes from
    for t in range(1, frames):
        one = np.concatenate([[-np.inf], score[:-1]])
        two = np.where(may_skip, np.concatenate([[-np.inf, -np.inf], score[:-2]]), -np.inf)
        best = np.maximum(np.maximum(score, one), two)
        steps[t] = np.where(best == score, 0, np.where(best == one, 1, 2))
        score = best + emitted[t]
    total = float(max(score[-1], score[-2]))
    state = 2 * n if score[-1] >= score[-2] else 2 * n - 1
    starts, ends, scores = np.zeros(n, np.int64), np.zeros(n, np.int64), np.full(n, -np.inf)
    for t in range(frames - 1, -1, -1):
        if state % 2:
            label = state // 2
            starts[label] = t
            ends[label] = ends[label] or t + 1
            scores[label] = max(scores[label], emitted[t, state])
        state -= int(steps[t, state])
    return Path(starts, ends, scores, total)


def spread_words(segment: Segment) -> list[Word]:
    """A segment's words where nothing tells their times: each as long as it has characters."""
    length = max(1, len(segment.text))
    seconds = (segment.end - segment.start) / length
    return [
        Word(segment.start + seconds * found.start(), segment.start + seconds * found.end(), found.group())
        for found in UNIT.finditer(segment.text)
    ]
