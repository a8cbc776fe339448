"""Subtitles are lines that can be read, cut by the times of words, and lose none of them."""

from __future__ import annotations

import numpy as np
import pytest
from rich.cells import cell_len

from depthup.transcribe.cues import LINE, LONGEST_SECONDS, cues
from depthup.transcribe.formats import FORMATS
from depthup.transcribe.times import UNIT
from depthup.transcribe.transcript import Segment, Transcript, Word


def spoken(text: str, seconds: float = 0.4, pauses: dict[int, float] | None = None) -> Transcript:
    """A segment whose words last so long, with pauses behind some of them."""
    at, words = 1.0, []
    for n, found in enumerate(UNIT.finditer(text)):
        words.append(Word(round(at, 3), round(at + seconds, 3), found.group()))
        at += seconds + (pauses or {}).get(n, 0.0)
    return Transcript("a", text, at, None, [Segment(0.75, at + 0.25, text, words)])


def told(transcript: Transcript) -> list[str]:
    return [" ".join(cue.lines) for cue in cues(transcript)]


@pytest.mark.parametrize("seed", range(8))
def test_every_word_is_shown_once_while_it_is_said_in_lines_that_fit(seed: int):
    rng = np.random.default_rng(seed)
    text = " ".join("abcdefghij"[: rng.integers(1, 10)] + rng.choice(["", "", ",", "."]) for _ in range(90))
    transcript = spoken(text, float(rng.uniform(0.1, 1.0)))
    found, words = cues(transcript), transcript.segments[0].words
    assert " ".join(line for cue in found for line in cue.lines) == text
    assert all(cell_len(line) <= LINE for cue in found for line in cue.lines)
    assert all(1 <= len(cue.lines) <= 2 for cue in found)
    assert all(one.end <= other.start for one, other in zip(found, found[1:], strict=False))
    assert all(cue.end - cue.start <= LONGEST_SECONDS + 1e-6 for cue in found)
    shown = [cue for cue in found for line in cue.lines for _ in line.split()]
    assert all(cue.start <= word.start and word.end <= cue.end for cue, word in zip(shown, words, strict=True))


def test_cues_end_where_one_would_breathe_and_none_is_a_scrap():
    text = "and when the old man had ended it, nobody in the room said a word. it was as if the wind had stopped there"
    assert told(spoken(text, 0.3)) == [text[:66], text[67:]]
    bare = text.replace(",", "").replace(".", "")
    at = bare.split().index("word")
    assert told(spoken(bare, 0.3, {at: 0.5}))[0] == bare[:64]
    assert min(map(len, told(spoken("word " * 40, 0.3)))) > LINE // 2


def test_wide_characters_count_twice_and_words_that_fit_nowhere_stand_alone():
    chinese = "今天天气很好我们一起去公园散步吧然后再去吃一顿好吃的饭你觉得怎么样" * 2
    found = cues(spoken(chinese, 0.2))
    assert "".join(line for cue in found for line in cue.lines) == chinese
    assert all(cell_len(line) <= LINE for cue in found for line in cue.lines)
    assert [cue.lines for cue in cues(spoken(f"a {'b' * 60} c"))] == [["a", "b" * 60], ["c"]]


def test_a_short_cue_stands_a_second_unless_the_next_one_comes():
    transcript = Transcript(
        "a", segments=[Segment(0.0, 0.3, "one"), Segment(0.5, 0.7, "two"), Segment(5.0, 6.5, "three")]
    )
    assert [(cue.start, cue.end) for cue in cues(transcript)] == [(0.0, 0.5), (0.5, 1.5), (5.0, 6.5)]
    assert "00:00:00,500 --> 00:00:01,500\ntwo\n" in FORMATS["srt"](transcript)
