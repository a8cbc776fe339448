"""Two models on the same clips: how far their WER lies apart, by a paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from depthup.evaluate.scores import AsrReport

RESAMPLES = 2000
EACH = "each"
"""Where a kept result has it."""

Each = Mapping[str, Sequence[object]]
"""By a clip's id its errors, words and speaker."""


@dataclass
class Difference:
    """How much higher the second WER is than the first, as a fraction, [low, high] its 95 % interval."""

    difference: float
    interval: list[float]
    over: str
    """What was drawn: `speakers`, or `clips` where those are not known."""

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


def of_each(report: AsrReport) -> dict[str, list[object]]:
    """What a comparison needs of every clip."""
    told = ((clip, clip.edits) for clip in report.examples)
    return {clip.id: [edits.errors, edits.words, clip.fields.get("speaker")] for clip, edits in told if edits}


def difference(first: Each, second: Each, seed: int = 0) -> Optional[Difference]:
    """Of two models' clips; None where they did not hear the same ones.

    Speakers (clips, where a speaker is not known) are drawn with replacement, the same for both models, since what is
    hard for one is hard for the other (Bisani and Ney 2004).
    """
    if first.keys() != second.keys() or not first:
        return None
    ids = list(first)
    speakers = [first[one][2] for one in ids]
    known = all(speaker is not None for speaker in speakers) and 1 < len(set(speakers)) < len(ids)
    groups = np.unique([str(s) for s in speakers] if known else ids, return_inverse=True)[1]
    words = np.bincount(groups, [int(str(first[one][1])) for one in ids])
    wrong = [np.bincount(groups, [int(str(each[one][0])) for one in ids]) for each in (first, second)]
    apart = wrong[1] - wrong[0]
    if not words.sum():
        return None
    drawn = np.random.default_rng(seed).integers(len(words), size=(RESAMPLES, len(words)))
    said = words[drawn].sum(1)
    found = apart[drawn].sum(1)[said > 0] / said[said > 0]
    low, high = np.percentile(found, [2.5, 97.5]).tolist()
    return Difference(float(apart.sum() / words.sum()), [low, high], "speakers" if known else "clips")
