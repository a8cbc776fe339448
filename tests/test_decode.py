"""Draft and verify gives what greedy decoding gives, whatever the guess, and needs fewer passes when it is good."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, LAYERS, SCOPES, VOCAB, clip, inputs_of, shake, text_ids, tiny_base, tiny_speech_lm

from depthup.model.ctc import spell
from depthup.transcribe.decoding import can_draft, decode, is_greedy

ENDS = [5, 17, 33, 50, 61, 72]
EOS = ENDS[0]
LIMIT = 14


def model_of(kind: str):
    if kind == "speech-layers":
        model = tiny_speech_lm(ctc=True, scope="speech", layer="e_branchformer")
    elif kind == "transformer":
        model = tiny_speech_lm(ctc=True, scope="speech", layer="transformer")
    else:
        model = tiny_speech_lm(ctc=True, method=kind)
    torch.manual_seed(0)
    shake(model)
    model.generation_config.eos_token_id = ENDS
    return model


def batch_of(rows: int, seed: int) -> dict[str, torch.Tensor]:
    """Rows with clips of different lengths, left-padded as prompts are."""
    return inputs_of([row_of(i, seed) for i in range(rows)], "left")


def row_of(i: int, seed: int) -> list:
    return [text_ids(2, seed + i), clip(20 + 9 * ((seed + i) % 5), seed + i), text_ids(3, i)]


def greedy(model, inputs, limits) -> list[list[int]]:
    """Token by token with `generate`, each row cut at its limit and at the end of sequence."""
    ids = model.generate(**inputs, max_new_tokens=max(limits), do_sample=False)[:, inputs["input_ids"].shape[1] :]
    answers = []
    for row, limit in zip(ids.tolist(), limits, strict=True):
        row = row[:limit]
        answers.append(row[: next((i for i, token in enumerate(row) if token in ENDS), len(row))])
    return answers


def corrupted(answer: list[int], how: int) -> list[int]:
    """An answer with tokens replaced, left out, put in, cut off or gone on with."""
    middle = len(answer) // 2
    return [
        [*answer, EOS],
        [*answer[:middle], 77, *answer[middle + 1 :], EOS],
        [*answer[:middle], *answer[middle + 1 :], EOS],
        [*answer[:middle], 77, 78, *answer[middle:], EOS],
        answer[:middle],
        [*answer[:middle], EOS, *answer],
        [],
        [*answer, 9, 9, 9, EOS],
    ][how % 8]


@pytest.mark.parametrize("kind", ["speech-layers", "transformer", "lora", "full"])
def test_any_guess_gives_the_greedy_answer(kind):
    model = model_of(kind)
    assert can_draft(model) and is_greedy(model)
    ended = 0
    for seed in range(0, 96, 8):
        inputs, limits = batch_of(8, seed), [LIMIT - i % 3 for i in range(8)]
        expected = greedy(model, inputs, limits)
        ended += sum(len(answer) < limit for answer, limit in zip(expected, limits, strict=True))
        guesses = [corrupted(answer, i + seed // 8) for i, answer in enumerate(expected)]
        at_once = (None, 1, 3)[seed // 8 % 3]
        found = decode(model, inputs, limits, lambda *_, guesses=guesses: guesses, range(VOCAB), at_once)
        assert found.tokens == expected
    assert ended > 4  # both ends of an answer occur: its own, and the limit


def test_good_guesses_save_passes():
    model, inputs, limits = model_of("speech-layers"), batch_of(6, 4), [LIMIT] * 6
    expected = greedy(model, inputs, limits)
    longest = max(map(len, expected))
    assert longest > 6
    assert decode(model, inputs, limits, lambda *_: [[*a, EOS] for a in expected], range(VOCAB)).passes <= 3
    used = {token for answer in expected for token in answer} | set(ENDS)
    junk = next(token for token in range(VOCAB) if token not in used)  # else it may be found further on
    one_wrong = [[*a[: len(a) // 2], junk, *a[len(a) // 2 + 1 :], EOS] for a in expected]
    assert decode(model, inputs, limits, lambda *_: one_wrong, range(VOCAB)).passes <= 4
    in_threes = decode(model, inputs, limits, lambda *_: [[*a, EOS] for a in expected], range(VOCAB), 3)
    assert in_threes.tokens == expected and longest // 4 < in_threes.passes <= 2 + -(-longest // 4)
    nothing = decode(model, inputs, limits, lambda *_: [[]] * 6, range(VOCAB))
    assert nothing.tokens == expected and nothing.passes >= longest


def test_a_misspelt_word_costs_one_pass():
    model, inputs, limits = model_of("speech-layers"), batch_of(6, 3), [LIMIT] * 6
    expected = greedy(model, inputs, limits)
    used = {token for answer in expected for token in answer} | set(ENDS)
    junk = [token for token in range(VOCAB) if token not in used][:3]  # pieces of a word that is none
    guesses = [[*a[: len(a) // 2], *junk, *a[len(a) // 2 + 1 :], EOS] for a in expected]
    found = decode(model, inputs, limits, lambda *_: guesses, used)
    assert found.tokens == expected and found.passes <= 4


def test_a_row_that_is_watched_grows_as_it_is_answered_and_leaves_alone_when_it_must():
    model, inputs, limits = model_of("speech-layers"), batch_of(6, 3), [LIMIT] * 6
    expected = greedy(model, inputs, limits)
    stopped = max(range(6), key=lambda row: len(expected[row]))
    seen: dict[int, list[int]] = {}

    def watch(row: int, tokens: list[int]) -> bool:
        assert tokens[: len(seen.get(row, []))] == seen.get(row, []) and len(tokens) > len(seen.get(row, []))
        seen[row] = list(tokens)
        return not (row == stopped and len(tokens) >= 3)

    for guesses in (None, lambda *_: [corrupted(answer, 1) for answer in expected]):
        seen.clear()
        found = decode(model, inputs, limits, guesses, range(VOCAB), watch=watch).tokens
        assert found[stopped] == seen[stopped] == expected[stopped][: len(found[stopped])]
        assert 3 <= len(found[stopped]) < len(expected[stopped])
        assert all(found[row] == expected[row] for row in range(6) if row != stopped)


def test_ctc_of_a_batch_is_that_of_each_clip_and_reaches_the_guess():
    model, inputs = model_of("speech-layers"), batch_of(4, 1)
    seen = []
    decode(model, inputs, [2] * 4, lambda speech: seen.append(speech) or [[]] * 4, range(VOCAB))
    log_probs, lengths = seen[0].ctc_log_probs, seen[0].ctc_lengths
    for i in range(4):
        alone = inputs_of([row_of(i, 1)], "left")
        with torch.no_grad():
            out = model(**alone, return_ctc=True)
        assert int(out.ctc_lengths) == int(lengths[i])
        torch.testing.assert_close(out.ctc_log_probs[0], log_probs[i, : lengths[i]], rtol=1e-4, atol=1e-4)


def test_spelling_collapses_repeats_and_drops_what_is_no_text():
    path = [0, *[ord("a") + 1] * 2, 0, ord("a") + 1, ord("b") + 1, 0xFF + 1, 0]
    log_probs = torch.nn.functional.one_hot(torch.tensor([path]), 257).float()
    assert spell(log_probs, torch.tensor([len(path)])) == ["aab"]
    assert spell(log_probs, torch.tensor([3])) == ["a"]


def test_no_drafts_where_holes_in_the_cache_would_matter():
    assert not can_draft(tiny_speech_lm(scope="speech"))  # no CTC head
    assert not can_draft(tiny_speech_lm(ctc=True, scope="all"))
    assert not can_draft(tiny_speech_lm(tiny_base("gemma"), ctc=True, scope="speech"))
    assert can_draft(tiny_speech_lm(ctc=True, scope="speech"))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_any_model_gives_its_greedy_answer_without_guesses(family, layer, scope):
    model = shake(tiny_speech_lm(tiny_base(family), layer=layer, scope=scope))
    model.generation_config.eos_token_id = ENDS
    assert is_greedy(model)
    lengths = set()
    for seed in (0, 8):
        inputs, limits = batch_of(8, seed), [LIMIT - i % 3 for i in range(8)]
        expected = greedy(model, inputs, limits)
        assert decode(model, inputs, limits, None, ()).tokens == expected
        lengths |= {len(answer) for answer in expected}
    assert len(lengths) > 1  # rows leave the batch at different times


@pytest.mark.parametrize("setting", [{"repetition_penalty": 1.1}, {"suppress_tokens": [3]}, {"min_new_tokens": 2}])
def test_what_changes_logits_is_left_to_generate(setting):
    model = tiny_speech_lm(ctc=True, scope="speech")
    assert is_greedy(model)
    model.generation_config.update(**setting)
    assert not is_greedy(model)
