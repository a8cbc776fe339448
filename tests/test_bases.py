"""Bases of other families: what hears does so rightly, what cannot is refused in one line before anything is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from base_checks import LONG, SHORT, case_of, faults
from small_run import save_base, save_recipe
from tiny import inputs_of
from tiny_families import FAMILIES, make_base
from transformers import AutoConfig, AutoModelForImageTextToText, LlamaForCausalLM

import depthup
from depthup.api import upscale
from depthup.errors import UserError
from depthup.model.base import load_base, load_base_config, text_config
from depthup.model.identity import prove, reads_embeddings
from depthup.recipe import load_recipe

HANDFUL = ("OLMo 2", "Command R", "GPT-OSS", "DeepSeek-V3", "Qwen3-Next", "Falcon-H1")
"""Norms behind attention, one norm for both branches, experts, latent attention, hybrids of two kinds."""
REFUSED = {
    "Gemma 4": "does not run with inserted layers",
    "GPT-2": "hands no arguments on to a list of layers",
    "Mamba": "none of its layers has attention",
    "T5": "decoder-only",
    "Qwen2.5-VL": "no causal LM for qwen2_5_vl_text alone",
}


@pytest.mark.parametrize("family", HANDFUL)
def test_a_family_hears_and_reads_as_it_did(family):
    assert faults(family) is None


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_hear_is_refused_in_one_line(family):
    with pytest.raises(UserError, match=REFUSED[family]) as error:
        case_of(family)
    assert "\n" not in str(error.value)


def test_the_page_of_bases_says_what_is_found_here():
    page = (Path(__file__).parents[1] / "docs" / "bases.md").read_text(encoding="utf-8")
    rows = dict(line.split(" | ", 1) for line in page.splitlines() if line.startswith("| "))
    assert {f"| {family}" for family in FAMILIES} <= set(rows)
    assert all(rows[f"| {family}"] == "works |" for family in HANDFUL)
    assert all("refused: " in rows[f"| {family}"] and why in rows[f"| {family}"] for family, why in REFUSED.items())


def test_layers_that_are_no_identity_are_found_and_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("depthup.model.layers.e_branchformer.zero_", lambda layer: None)
    directory = tmp_path / "out"
    with pytest.raises(UserError, match="off by up to .* this family is not supported"):
        upscale(load_recipe(save_recipe(tmp_path)), directory)
    assert not directory.exists()


def test_a_base_that_scales_embeddings_on_the_way_is_refused():
    config = FAMILIES["Falcon-H1"]()
    config.embedding_multiplier = 3.0
    with pytest.raises(UserError, match="gives other logits for embeddings than for the tokens"):
        reads_embeddings(make_base(config))


def test_the_proof_looks_at_speech_and_at_text():
    base = make_base(FAMILIES["Llama"]())
    before = reads_embeddings(base)
    case = case_of("Llama")  # shaken, so speech has changed and text has not
    prove(case.model.llm, before, "speech", with_speech=False)
    with pytest.raises(UserError, match="off by"):
        prove(case.model.llm, before, "speech", with_speech=True)


def test_of_a_model_that_sees_the_text_llm_is_the_base(tmp_path):
    whole = AutoModelForImageTextToText.from_config(FAMILIES["Gemma 3, with images"]())
    whole.save_pretrained(tmp_path)
    text = load_base(str(tmp_path), None, torch.float32)
    assert type(text).__name__ == "Gemma3ForCausalLM"
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(text(input_ids=ids).logits, whole.eval()(input_ids=ids).logits)


def test_bases_already_packed_or_without_all_their_weights_are_refused(tmp_path):
    config = AutoConfig.from_pretrained(save_base(tmp_path / "base"))
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(UserError, match="quantised already"):
        text_config("packed", config)
    config = load_base_config(str(tmp_path / "base"))
    config.num_hidden_layers += 1
    config.save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match="has no weights for .* such as model.layers.3"):
        load_base(str(tmp_path / "base"), None, torch.float32)


def test_a_kernel_that_is_chosen_later_reaches_inserted_layers(tmp_path):
    model = depthup.SpeechLM.from_recipe(load_recipe(save_recipe(tmp_path)))
    assert isinstance(model.llm, LlamaForCausalLM)
    model.set_attn_implementation("eager")
    used = {m.config._attn_implementation for m in model.llm.modules() if hasattr(m, "config")}
    assert used == {"eager"}


@pytest.mark.parametrize("scope", ["speech", "from_speech", "all"])
def test_eager_and_static_caches_generate_the_same_in_every_scope(scope):
    case = case_of("Gemma 3", scope=scope)
    inputs = inputs_of([SHORT, LONG], "left")
    options = {"max_new_tokens": 5, "do_sample": False}
    found = []
    for kernel in ("sdpa", "eager"):
        case.model.set_attn_implementation(kernel)
        found.append(case.model.generate(**inputs, **options))
    found.append(case.model.generate(**inputs, **options, cache_implementation="static", disable_compile=True))
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


@pytest.mark.parametrize("scope", ["speech", "from_speech", "all"])
def test_a_second_recording_over_a_kept_cache_is_as_both_at_once(scope):
    case = case_of("Llama", scope=scope)
    first, second = inputs_of([SHORT]), inputs_of([[*SHORT, *LONG]])
    options = {"max_new_tokens": 4, "do_sample": False}
    cache = case.model.new_cache()
    with torch.no_grad():
        case.model(**first, past_key_values=cache)
        kept = case.model.generate(**second, **options, past_key_values=cache)
        assert torch.equal(kept, case.model.generate(**second, **options))
