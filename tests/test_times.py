"""Words aligned to what a CTC head spells, and what is made of a text that it did not spell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from depthup.model.ctc import spell
from depthup.transcribe.guard import Heard, difference, judged
from depthup.transcribe.options import Options
from depthup.transcribe.times import LETTER_SECONDS, align, align_words
from depthup.transcribe.transcript import Segment


def log_probs_of(path: list[int], sure: float = 0.99) -> np.ndarray:
    """A head that says class `path[t]` in frame t."""
    probs = np.full((len(path), 257), (1 - sure) / 256)
    probs[np.arange(len(path)), path] = sure
    return np.log(probs)


def spelled_path(text: str, gap: int = 1, hold: int = 1) -> list[int]:
    return [c for byte in text.encode() for c in [0] * gap + [byte + 1] * hold]


def test_alignment_is_the_likeliest_of_all_paths():
    rng = np.random.default_rng(0)
    for frames, labels in itertools.product((3, 5, 6), ([1], [1, 2], [1, 1], [2, 1, 2])):
        log_probs = np.log(rng.dirichlet(np.ones(3), frames))
        paths = [
            path
            for path in itertools.product(range(3), repeat=frames)
            if [c for i, c in enumerate(path) if c and (i == 0 or path[i - 1] != c)] == labels
        ]
        found = align(np.array(labels), log_probs)
        if not paths:
            assert found is None
            continue
        best = max(paths, key=lambda path: sum(log_probs[t, c] for t, c in enumerate(path)))
        runs = [[t for t, _ in run] for c, run in itertools.groupby(enumerate(best), lambda tc: tc[1]) if c]
        assert found[0].tolist() == [run[0] for run in runs] and found[1].tolist() == [run[-1] + 1 for run in runs]
        wanted = [max(log_probs[t, c] for t in run) for run, c in zip(runs, labels, strict=True)]
        assert np.allclose(found[2], wanted)


def test_words_get_the_times_at_which_they_are_spelled():
    text = "go to über 東京 now"
    path = spelled_path(text, gap=2, hold=1)
    words = align_words(text, log_probs_of(path), 0.02)
    assert [word.text for word in words] == ["go", "to", "über", "東", "京", "now"]
    for word, first in zip(words, ("go", "to", "über", "東", "京", "now"), strict=True):
        at = 3 * len(text[: text.index(first)].encode())
        begins, ends = 0.02 * (at + 2) - LETTER_SECONDS, 0.02 * (at + 3 * len(first.encode())) + LETTER_SECONDS
        # Neighbours without a space between them share what is between their letters.
        assert word.start == pytest.approx(begins if first != "京" else begins + LETTER_SECONDS - 0.02)
        assert word.end == pytest.approx(min(ends, 0.02 * len(path)) if first != "東" else ends - LETTER_SECONDS + 0.02)
        assert word.confidence == pytest.approx(0.99, abs=1e-3)


def test_a_word_that_was_not_spelled_is_unsure_and_moves_no_other():
    path = spelled_path("one two three", gap=3)
    words = align_words("one too three", log_probs_of(path), 0.02)
    right = align_words("one two three", log_probs_of(path), 0.02)
    assert words[1].confidence < 0.3 < 0.9 < min(words[0].confidence, words[2].confidence)
    assert words[0] == right[0] and words[2].end == right[2].end
    assert align_words("one two three", log_probs_of(path[:12]), 0.02) is None
    assert align_words("", log_probs_of(path), 0.02) is None


def judge(text: str, spelled: str, seconds: float = 4.0, draft: str | None = None, **options: object) -> Segment:
    path = spelled_path(spelled, gap=3) or [0] * 100
    assert spell(_tensor(path), _length(path)) == [spelled]
    heard = Heard(text, [-0.1], spelled, log_probs_of(path), draft)
    return judged(heard, seconds, len(path) / seconds, Options(**options))


def _tensor(path: list[int]):
    import torch

    return torch.tensor(log_probs_of(path))[None]


def _length(path: list[int]):
    import torch

    return torch.tensor([len(path)])


def test_text_from_nothing_is_dropped_and_a_wild_one_is_flagged_or_replaced():
    fine = judge("Turn on the light.", "turn on the lite")
    assert (fine.text, fine.flagged, fine.confidence) == ("Turn on the light.", False, 0.905)
    assert [word.text for word in fine.words] == ["Turn", "on", "the", "light."]
    assert judge("Thank you for watching.", "").text == ""
    assert judge("Thank you for watching.", "'").text == ""
    assert judge("Two.", "t").text == "Two."  # a head of few hours spells no more of a short word
    assert judge("", "turn on the light").text == ""
    wild = judge("Thank you for watching.", "turn on the lite")
    assert wild.flagged and wild.text == "Thank you for watching."
    replaced = judge("Thank you for watching.", "turn on the lite", fallback="ctc")
    assert replaced.flagged and replaced.text == "turn on the lite" and replaced.words[3].text == "lite"
    assert judge("no no no no no", "no").flagged and not judge("no no no", "no no no").flagged


def test_text_that_the_llm_made_up_beside_its_draft_is_dropped_flagged_or_replaced():
    assert judge("Alex is a brilliant employee.", "turn on the lite", draft="").text == ""
    made_up = "turn on the light. The company's mission is to create a better world."
    assert judge(made_up, "turn on the lite", draft="turn on the light").flagged
    replaced = judge(made_up, "turn on the lite", draft="turn on the light", fallback="draft")
    assert replaced.flagged and replaced.text == "turn on the light" and len(replaced.words) == 4
    fine = judge("Turn on the light.", "turn on the lite", draft="turn on the light", fallback="draft")
    assert fine.text == "Turn on the light." and not fine.flagged
    assert judge("好", "好", draft="好").text == "好"  # a word of one character


def test_what_does_not_stop_is_cut_behind_its_first_time():
    loop = judge("turn on the light " + "but " * 30, "turn on the lite")
    assert loop.flagged and loop.text == "turn on the light but "
    assert judge("no no no no no no no", "no no no no no no no").text == "no no no no no no no"


def test_what_cannot_be_compared_is_only_looked_at_for_loops():
    assert not judged(Heard("one two"), 1.0, 0.0, Options()).flagged
    assert judged(Heard("um um um um um"), 1.0, 0.0, Options()).flagged
    assert judged(Heard("on and on, on and on, on and on, on and on"), 1.0, 0.0, Options()).flagged
    looped = judged(Heard("he ran and ran and ran and ran and ran", draft="he ran and fell"), 1.0, 0.0, Options())
    assert looped.flagged and looped.text == "he ran and fell"
    assert judged(Heard("no no no no", draft="no no no no"), 1.0, 0.0, Options()).text == "no no no no"
    assert judged(Heard("one two"), 1.0, 0.0, Options()).confidence is None


def test_difference_knows_neither_case_nor_punctuation_nor_spaces():
    assert difference("It's 5 O'clock!", "its 5 oclock") == 0
    assert difference("abcd", "efgh") == 1 and difference("", "") == 0


def test_a_long_text_is_aligned_as_a_short_one():
    text = " ".join(["word"] * 60)
    path = spelled_path(text, gap=1, hold=2)
    words = align_words(text, log_probs_of(path), 0.02)
    assert len(words) == 60
    assert [round((w.start + LETTER_SECONDS) / 0.02) for w in words[1:]] == [3 * 5 * n + 1 for n in range(1, 60)]
