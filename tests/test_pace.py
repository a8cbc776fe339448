"""Where answers end is learnt from the training set."""

from __future__ import annotations

import json

import pytest
from small_run import save_recipe

from depthup import api
from depthup.config import DataConfig
from depthup.data.pace import MARGIN, SLOWEST, paced, tokens_per_second
from depthup.recipe import load_recipe


def manifest(path, clips):
    (path.parent / "a.wav").touch()
    rows = [{"audio": "a.wav", "text": text, "duration": seconds} for text, seconds in clips]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paced(DataConfig(train=str(path)))


def test_it_is_that_of_the_fastest_speaker_and_a_half_more(tmp_path):
    clips = manifest(tmp_path / "train.jsonl", [("a" * 8, 4.0), ("a" * 20, 2.0), ("a" * 3, 2.0)])
    assert tokens_per_second(clips, list, 0) == MARGIN * 10
    assert tokens_per_second(clips, list, 4) == MARGIN * 8


def test_one_clip_with_the_transcript_of_another_does_not_count(tmp_path):
    clips = [("a" * 10, 2.0)] * 399 + [("a" * 1000, 1.0)]
    assert tokens_per_second(manifest(tmp_path / "train.jsonl", clips), list, 0) == MARGIN * 5


def test_slow_speech_leaves_room(tmp_path):
    assert tokens_per_second(manifest(tmp_path / "train.jsonl", [("a", 30.0)]), list, 0) == SLOWEST


@pytest.mark.parametrize("transcripts", ["spoken", "as_is"])
def test_a_trained_model_keeps_it(tmp_path, transcripts):
    recipe = load_recipe(save_recipe(tmp_path), [f"--data.transcripts={transcripts}", "--train.max_steps=1"])
    model, processor = api.load(api.train(recipe))
    expected = tokens_per_second(paced(recipe.data), processor.answer_ids, 16)
    assert model.config.tokens_per_second == expected != 12.0
    assert model.config.answer_tokens(10.0) >= 16 + 10 * expected
