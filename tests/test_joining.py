"""Batches that join while they are written, and rows that leave, change no answer."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, LAYERS, SCOPES, VOCAB, clip, inputs_of, shake, text_ids, tiny_base, tiny_speech_lm

from depthup.transcribe.decoding import Decoding, decode

LIMIT = 12


def model_of(family="llama", **upscale):
    model = tiny_speech_lm(tiny_base(family), ctc=True, **upscale)
    torch.manual_seed(0)
    shake(model)
    model.generation_config.eos_token_id = [5, 17, 33]
    return model


def rows_of(seed: int) -> list[list]:
    """Speech after text, text alone, and speech of another length."""
    return [
        [text_ids(2, seed), clip(20 + 16 * (seed % 3), seed), text_ids(3, seed)],
        [text_ids(4 + 5 * (seed % 2), seed + 1)],
        [text_ids(1, seed + 2), clip(60, seed + 2), text_ids(2, seed + 2)],
    ]


def alone(model, row) -> list[int]:
    return decode(model, inputs_of([row], "left"), [LIMIT], None, range(VOCAB)).tokens[0]


def written_together(model, batches: list[list[list]], unwanted: str = "", guess=None) -> dict[str, list[int]]:
    """Answers by name where a batch joins the ones before it after every second pass."""
    answers, waiting, running, passes = {}, list(enumerate(batches)), None, 0
    while waiting or running:
        if waiting and (running is None or passes % 2 == 0):
            number, rows = waiting.pop(0)
            tags = [f"{number}.{i}" for i in range(len(rows))]
            limits = [LIMIT] * len(rows)
            new = Decoding(model, inputs_of(rows, "left"), limits, guess, range(VOCAB), tags)
            if running is None:
                running = new
            else:
                assert running.join(new)
        left = running.settle(lambda row: row.tag != unwanted)
        answers.update({row.tag: row.tokens for row in left})
        if running.rows:
            running.step(3 if passes % 3 else 0)
        else:
            running = None
        passes += 1
    return answers


EVERY = [("llama", scope, layer) for scope in SCOPES for layer in LAYERS] + [("qwen", "from_speech", "e_branchformer")]


@pytest.mark.parametrize("family, scope, layer", EVERY)
def test_an_answer_is_the_same_whoever_comes_and_goes(family, scope, layer):
    model = model_of(family, scope=scope, layer=layer)
    batches = [rows_of(seed) for seed in range(3)] + [[rows_of(7)[1]], [rows_of(8)[0]]]
    expected = {f"{n}.{i}": alone(model, row) for n, rows in enumerate(batches) for i, row in enumerate(rows)}
    assert written_together(model, batches) == expected
    assert len({len(answer) for answer in expected.values()}) > 1  # they leave at different times


def test_batches_of_text_alone_and_of_speech_alone_join_in_any_order():
    model = model_of(scope="from_speech", layer="e_branchformer")
    text, speech = [rows_of(3)[1]], [rows_of(4)[0], rows_of(4)[2]]
    for batches in ([text, speech], [speech, text]):
        expected = {f"{n}.{i}": alone(model, row) for n, rows in enumerate(batches) for i, row in enumerate(rows)}
        assert written_together(model, batches) == expected


def test_a_row_that_nobody_wants_leaves_and_the_others_do_not_notice():
    model = model_of(scope="speech", layer="e_branchformer")
    batches = [rows_of(seed) for seed in range(2)]
    found = written_together(model, batches, unwanted="0.2")
    for number, rows in enumerate(batches):
        for i, row in enumerate(rows):
            answer = alone(model, row)
            tag = f"{number}.{i}"
            assert found[tag] == (answer[: len(found[tag])] if tag == "0.2" else answer)
    assert len(found["0.2"]) < len(alone(model, batches[0][2]))


def test_drafts_are_verified_in_joined_batches_too():
    model = model_of(scope="speech", layer="transformer")
    batches = [[row for row in rows_of(seed) if len(row) > 1] for seed in range(3)]
    flat = [(f"{n}.{i}", row) for n, rows in enumerate(batches) for i, row in enumerate(rows)]
    expected = {tag: alone(model, row) for tag, row in flat}

    def drafts(speech):
        assert len(speech.made_out()) == 2
        return [[*answer[:4], 7, *answer[5:]] for answer in list(expected.values())[:2]]

    assert written_together(model, batches, guess=drafts) == expected


def test_columns_that_nobody_needs_are_dropped():
    model = model_of(scope="speech", layer="transformer")
    long, short = [[text_ids(40)]], [[text_ids(3, 1)]]
    batch = Decoding(model, inputs_of(long, "left"), [2], None, range(VOCAB), ["long"])
    assert batch.join(Decoding(model, inputs_of(short, "left"), [LIMIT], None, range(VOCAB), ["short"]))
    while [row.tag for row in batch.rows] != ["short"]:
        batch.settle()
        batch.step()
    assert batch.llm.mask.shape[1] < 10
    assert batch.llm.cache.get_seq_length() == batch.llm.mask.shape[1]


def test_sliding_windows_do_not_join():
    assert "gemma" in FAMILIES
    model = model_of("gemma", scope="speech", layer="transformer")
    one, other = (Decoding(model, inputs_of([[text_ids(5, i)]], "left"), [3], None, range(VOCAB)) for i in range(2))
    assert not one.join(other) and len(one.rows) == 1
