"""Which stretches of a recording the model hears at once."""

from __future__ import annotations

import numpy as np

from depthup.transcribe.options import MAX_SECONDS

FRAME_SECONDS = 0.02
PAUSE_FRAMES = 15


def split_long(samples: np.ndarray, sampling_rate: int, max_seconds: float = MAX_SECONDS) -> list[tuple[int, int]]:
    """Cut a recording [samples] at its quietest points into pieces of at most `max_seconds` (at least 0.1).

    Returns (first, end) sample indices that follow each other and cover every sample. A cut falls where 0.3 s around it
    hold the least energy, in the later half of what is allowed, and leaves no scrap at the end.
    """
    hop = max(1, round(FRAME_SECONDS * sampling_rate))
    longest = int(max_seconds * sampling_rate) // hop
    frames = len(samples) // hop
    if len(samples) <= max_seconds * sampling_rate:
        return [(0, len(samples))]
    energy = samples[: frames * hop].reshape(frames, hop).var(axis=1)
    energy = np.convolve(energy, np.ones(PAUSE_FRAMES), mode="same")
    cuts = [0]
    while len(samples) - cuts[-1] * hop > max_seconds * sampling_rate:
        start = cuts[-1]
        low, high = start + longest // 2, min(start + longest, frames - longest // 4)
        # Of equally quiet frames the last; a cut lies at the beginning of its frame.
        cuts.append(high - int(np.argmin(energy[low : high + 1][::-1])))
    edges = [cut * hop for cut in cuts] + [len(samples)]
    return list(zip(edges[:-1], edges[1:], strict=True))
