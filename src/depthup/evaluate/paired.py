"""Two models on the same clips: how far their WER lies apart, by a paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from depthup.evaluate.scores import AsrReport, Draw

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
    speakers = [None if speaker is None else str(speaker) for _, _, speaker in first.values()]
    words = np.array([int(str(told[1])) for told in first.values()])
    if not words.sum():
        return None
    apart = np.array([int(str(second[one][0])) - int(str(told[0])) for one, told in first.items()])
    draw = Draw(speakers, np.random.default_rng(seed), RESAMPLES)
    interval, over = draw.interval(apart, words, np.arange(len(words)))
    return Difference(float(apart.sum() / words.sum()), interval, over)
