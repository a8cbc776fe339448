"""How fast a training set is spoken, which says where an answer about a recording has to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from depthup.config import DataConfig
from depthup.data.cuts import load_cuts
from depthup.data.transcripts import prompt_and_answer

CLIPS = 2000
"""Of each source, the first."""
ODD = 0.005
"""Share of clips whose transcript may belong to another recording, and is not asked."""
MARGIN = 1.5
"""Others may speak faster than all that were heard."""
SLOWEST = 2.0


def paced(data: DataConfig) -> list[tuple[str, float]]:
    """Transcripts and seconds among the first `CLIPS` clips of each source in `data.train`; answers are none."""
    sources = [data.train] if isinstance(data.train, str) else data.train
    cuts = (cut for source in sources for cut in islice(load_cuts(source, data), CLIPS))
    told = ((*prompt_and_answer(cut, data), cut.duration) for cut in cuts)
    return [(text, seconds) for prompt, text, seconds in told if prompt is None]


def tokens_per_second(
    clips: Sequence[tuple[str, float]], tokens: Callable[[str], Sequence[Any]], at_least: int
) -> float:
    """Most tokens of a transcript for a second of it, beyond `at_least` of them, in `paced` clips; and a half more.

    `tokens` cuts a transcript into them.
    """
    paces = sorted((len(tokens(text)) - at_least) / max(seconds, 0.1) for text, seconds in clips)
    fastest = paces[-1 - int(ODD * len(paces))] if paces else 0.0
    return round(max(SLOWEST, MARGIN * fastest), 2)
