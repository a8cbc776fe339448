"""Hotwords are written where they were said, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from test_times import log_probs_of, spelled_path

from depthup.transcribe.hotwords import listed, places, with_hotwords

SECONDS = 0.02


def heard(spelled: str, doubts: dict[int, str] | None = None) -> np.ndarray:
    """What a head says that spells this; where it doubts, the other letter is nearly as likely."""
    log_probs = log_probs_of(spelled_path(spelled, gap=2))
    for place, other in (doubts or {}).items():
        log_probs[3 * place + 2, ord(other) + 1] = np.log(0.2)
    return log_probs


def no_preference(texts: Sequence[str]) -> list[float]:
    return [-10.0] * len(texts)


def the_listed(texts: Sequence[str]) -> list[float]:
    return [-10.0, *[-5.0] * (len(texts) - 1)]


def test_a_list_has_commas_or_lines():
    assert listed(" Anna  Kowalski, Gdynia\nbrexit,,") == ["Anna Kowalski", "Gdynia", "brexit"]
    assert listed("") == []


def test_a_word_is_found_where_it_is_spelled_and_its_path_is_the_best():
    log_probs = heard("go to gdynia or to dinner")
    assert list(places(["Gdynia"], log_probs)) == [("Gdynia", 3 * 6 + 2, 3 * 12)]
    assert list(places(["to", "Warsaw", "a word that is longer than the whole clip"], log_probs)) == []
    twice = heard("anna and anna")
    assert sorted(places(["Anna"], twice)) == [("Anna", 2, 12), ("Anna", 29, 39)]
    doubled = "mississippi"  # needs a blank
    assert list(places([doubled], heard(doubled))) == [(doubled, 2, 33)]
    assert list(places(["Anna"], log_probs[:0])) == list(places([], log_probs)) == []


def test_words_that_are_looked_for_together_are_found_as_each_alone():
    log_probs = heard("we met kovalsky in gdinya with anna", {9: "w", 14: "i", 21: "y", 23: "i"})
    words = ["Gdynia", "Kowalski", "Anna", "with", "Timbuktu", "met"]
    found = list(places(words, log_probs))
    assert {word for word, *_ in found} == {"Gdynia", "Kowalski", "Anna", "with", "met"}
    assert found == [spot for word in words for spot in places([word], log_probs)]


def test_what_was_nearly_spelled_is_written_as_in_the_list():
    log_probs = heard("we met kovalsky in gdinya", {9: "w", 14: "i", 21: "y", 23: "i"})
    text = 'We met "Kovalsky" in Gdinya.'
    wanted = 'We met "Kowalski" in Gdynia.'
    found = with_hotwords(text, "we met kovalsky in gdinya", log_probs, SECONDS, ["Gdynia", "Kowalski"], the_listed)
    assert found == wanted
    again = with_hotwords(wanted, "we met kovalsky in gdinya", log_probs, SECONDS, ["Kowalski"], the_listed)
    assert again == wanted


def test_what_was_spelled_wins_over_what_was_written():
    log_probs = heard("we met kowalski")
    assert with_hotwords("We met call key.", "we met kowalski", log_probs, SECONDS, ["Kowalski"], no_preference) in (
        "We met Kowalski.",
        "We met Kowalski key.",
        "We met call Kowalski.",
    )


def test_the_llm_can_refuse():
    log_probs, text = heard("the cart is full", {7: "d"}), "The cart is full."
    against = {"The cart is full.": -5.0, "The card is full.": -40.0}
    weigh = lambda texts: [against.get(text, -50.0) for text in texts]  # noqa: E731
    assert with_hotwords(text, "the cart is full", log_probs, SECONDS, ["card"], the_listed) == "The card is full."
    assert with_hotwords(text, "the cart is full", log_probs, SECONDS, ["card"], weigh) == text


@pytest.mark.parametrize("said", ["we met kovalsky in gdinya", "the cart is full", "turn on the kitchen light", ""])
def test_nothing_of_a_list_leaks_that_was_not_said(said: str):
    strangers = ["Schwarzenegger", "Timbuktu", "photosynthesis", "Rumpelstiltskin", "quarterly revenue", "art"]
    found = with_hotwords(said, said, heard(said or "x"), SECONDS, strangers, no_preference)
    assert found == said


def test_of_several_that_are_alike_the_likeliest_is_taken_and_a_split_word_is_put_together():
    log_probs = heard("convents in darjeeling")
    found = with_hotwords(
        "Convents in arch ealings.",
        "convents in darjeeling",
        log_probs,
        SECONDS,
        ["feeling", "Darjeeling"],
        no_preference,
    )
    assert found == "Convents in Darjeeling."
