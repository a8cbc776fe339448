"""Where layers go, how many, and that a kind of layer is one file and one line in a registry."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_run import RECIPES
from tiny import clip, inputs_of, tiny_base, tiny_speech_lm
from transformers import AutoConfig

from depthup.config import UpscaleConfig
from depthup.errors import UserError
from depthup.model.configuration import SpeechLMConfig
from depthup.model.layers import KINDS
from depthup.model.upscale import inserted_layers, matched_rank, placement_indices
from depthup.recipe import load_recipe

SIZES = {"360m": (32, 8, 144), "1.7b": (24, 6, 356)}
"""SmolLM2's: depth, and inserted layers and rank of LoRA in the paper."""


def at(base_layers, **options):
    return placement_indices(UpscaleConfig(**{"scope": "all", **options}), base_layers)


def test_placements_are_the_papers():
    parts = {"interleaved": range(32), "bottom": range(16), "middle": range(8, 24), "top": range(16, 32)}
    for placement, part in parts.items():
        found = at(32, placement=placement)
        assert len(found) == 8 and set(found) <= set(part)
        assert len({b - a for a, b in zip(found, found[1:], strict=False)}) == 1  # evenly
    assert at(32) == [0, 4, 8, 12, 16, 20, 24, 28]
    assert at(32, placement="sandwich") == [0, 2, 4, 6, 24, 26, 28, 30]
    assert at(24, placement="sandwich") == [0, 2, 4, 18, 20, 22]
    assert at(32, placement="sandwich", num_layers=3) == [0, 4, 24]


def test_how_many_layers():
    assert len(at(30)) == 8 and len(at(4)) == 1 and len(at(2, num_layers=0.1)) == 1 and len(at(30, num_layers=3)) == 3
    assert at(30, placement=[5, 5]) == [5, 5] == at(30, placement=[5, 5], num_layers=2)


def test_nothing_reads_speech_after_the_last_base_layer():
    assert at(30, scope="all", placement="top", num_layers=15)[-1] == 29
    for placement in ("interleaved", "middle", "top", "sandwich"):
        assert at(30, scope="speech", placement=placement, num_layers=14)[-1] < 29
    assert at(2, scope="speech", placement="top", num_layers=1) == [0]


BAD = {
    "29": {"scope": "speech", "placement": [29]},
    "num_layers 2": {"num_layers": 2, "placement": [1]},
    "31 layers": {"num_layers": 31},
    "from 0": {"placement": []},
    "sandwich": {"num_layers": 20, "placement": "sandwich"},
}


@pytest.mark.parametrize("word", BAD)
def test_a_placement_that_does_not_fit_is_named(word):
    with pytest.raises(UserError, match=f"upscale.*{word}"):
        at(30, **BAD[word])


WRONG = {
    "--upscale.placement=even": "is called interleaved now",
    "--upscale.placement=sandwhich": "did you mean sandwich",
    "--upscale.placement=everywhere": "there are interleaved, bottom, middle, top, sandwich",
    "--upscale.num_layers=1.5": "share between 0 and 1",
    "--upscale.num_layers=0": "whole number from 1",
    "--upscale.kernel_size=3": "did you mean upscale.e_branchformer.kernel_size",
    "--upscale.init=random_merge": "did you mean upscale.e_branchformer.init",
    "--upscale.style=espnet": "unknown option; `depthup train",
    "--upscale.e_branchformer.kernel_size=4": "must be odd",
    "--upscale.e_branchformer.init=zero": "random_merge",
    "--upscale.layer=conformer": "transformer",
    "--lora.rank=0": "at least 1 or matched",
}


@pytest.mark.parametrize("option", WRONG)
def test_bad_options_get_one_line(option):
    with pytest.raises(UserError, match=WRONG[option]) as caught:
        load_recipe(None, [option])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("size", SIZES)
def test_number_of_layers_and_matched_rank_are_the_papers(size):
    config = AutoConfig.from_pretrained(RECIPES / f"smollm2-{size}/config.json")
    depth, layers, rank = SIZES[size]
    upscale = UpscaleConfig(layer="transformer")
    assert config.num_hidden_layers == depth and len(placement_indices(upscale, depth)) == layers
    assert matched_rank(config, upscale) == rank


def test_a_matched_rank_trains_what_the_layers_would():
    base = tiny_base()
    recipe = load_recipe(None, ["--method=lora", "--lora.rank=matched", "--upscale.num_layers=2"])
    lora = SpeechLMConfig.from_recipe(recipe, base.config).lora
    model = tiny_speech_lm(base, e_branchformer={"kernel_size": 15})
    layers = sum(p.numel() for layer in inserted_layers(model.llm) for p in layer.parameters())
    per_rank = 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
    assert lora["rank"] * per_rank <= layers < (lora["rank"] + 1) * per_rank and lora["alpha"] == 2 * lora["rank"]


def test_a_kind_of_layer_is_a_file_and_a_line():
    """Each registered kind has its section of the recipe, a module of its own, and an option for each field."""
    sections = {field.name: field.default_factory for field in dataclasses.fields(UpscaleConfig)}
    told = (RECIPES.parent / "docs" / "choosing.md").read_text(encoding="utf-8")
    for name, kind in KINDS.items():
        assert f"`{name}`" in told
        assert sections[name] is kind and kind.__module__.rpartition(".")[2] == name
        recipe = load_recipe(None, [f"--upscale.layer={name}", f"--upscale.{name}.init=random"])
        assert recipe.upscale.kind == kind(init="random")


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_that_is_named_is_the_kind_that_is_built(name):
    model = tiny_speech_lm(layer=name)
    assert {type(layer.block).__module__ for layer in inserted_layers(model.llm)} == {KINDS[name].__module__}
    assert torch.isfinite(model(**inputs_of([[[3, 4], clip(33), [5]]])).logits).all()


def test_layers_of_another_version_are_refused_in_one_line():
    config = SpeechLMConfig(upscale={"layer": "e_branchformer", "style": "espnet"})
    with pytest.raises(UserError, match="another version of depthup.*style"):
        _ = config.upscale_config
