"""Groups of speakers are heard equally often."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import soundfile
import torch
from small_run import save_recipe

from depthup.config import AugmentConfig, DataConfig
from depthup.data.balance import by_value
from depthup.data.batches import BatchStream
from depthup.data.cuts import fields_of, load_cuts, load_sources
from depthup.data.mixing import in_epoch
from depthup.errors import UserError
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.recipe import load_recipe


@pytest.fixture
def manifests(tmp_path):
    """Two sources: 60 clips of adults, 12 of children, 30 that tell no age."""
    soundfile.write(tmp_path / "a.wav", torch.zeros(8000).numpy(), 16000)
    rows = [{"age": "adult"}] * 60 + [{"age": "child"}] * 12, [{}] * 30
    paths = [tmp_path / "read.jsonl", tmp_path / "free.jsonl"]
    for path, of_source in zip(paths, rows, strict=True):
        path.write_text("".join(json.dumps({"audio": "a.wav", "text": "a", **row}) + "\n" for row in of_source))
    return [str(path) for path in paths]


def test_an_epoch_hears_every_clip_and_each_group_as_often(manifests):
    groups = by_value(load_sources(manifests, DataConfig()), "age")
    assert groups.sizes.tolist() == [30, 60, 12]
    ages, seen = Counter(), set()
    for numbers in in_epoch(groups, 0, 0, [1.0, 1.0, 1.0]):
        for number in numbers.tolist():
            cut = groups.cut(number)
            ages[fields_of(cut).get("age", "none")] += 1
            seen.add(cut.id)
    assert len(seen) == 102
    assert min(ages.values()) > 0.6 * max(ages.values()), ages


def test_batches_of_training_are_balanced(tmp_path, manifests):
    recipe = load_recipe(save_recipe(tmp_path), ["--data.balance=age", f"--data.train={json.dumps(manifests)}"])
    model = SpeechLM.from_recipe(recipe)
    cuts = load_cuts(recipe.data.train, recipe.data)
    stream = BatchStream(cuts, SpeechProcessor.build(model.config), recipe.data, AugmentConfig(), seed=0)
    heard = Counter()
    for _, numbers in zip(range(40), stream._plan(), strict=False):
        heard.update(fields_of(stream.clips.cut(int(n))).get("age", "none") for n in numbers[1])
    assert min(heard.values()) > 0.6 * max(heard.values()), heard


@pytest.mark.parametrize("field", ["accent", "age"])
def test_a_field_that_tells_nothing_apart_is_refused(manifests, field):
    source = manifests[0] if field == "accent" else manifests[1]
    with pytest.raises(UserError, match="has 1 values of it"):
        by_value(load_sources(source, DataConfig()), field)


def test_weights_and_balance_are_not_both_taken():
    with pytest.raises(ValueError, match="not both"):
        DataConfig(train=["a", "b"], weights=[1, 2], balance="age")
