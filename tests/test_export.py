"""Without its layers a model is the base exactly; with them, where that can be, a plain deeper LLM loads anywhere."""

from __future__ import annotations

import pytest
import torch
from small_run import save_recipe
from tiny import FAMILIES, LAYERS, SCOPES, clip, inputs_of, merged, shake, text_ids, tiny_base, tiny_speech_lm
from transformers import AutoModelForCausalLM, AutoTokenizer

import depthup
from depthup.cli import main
from depthup.errors import UserError
from depthup.model.export import plain_llm
from depthup.recipe import load_recipe


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_without_its_layers_it_is_the_base_and_with_them_again_itself(family, layer, scope):
    base = tiny_base(family)
    model = shake(tiny_speech_lm(base, method="depth_upscale+lora", layer=layer, scope=scope))
    heard, ids = inputs_of([[text_ids(3), clip(33), text_ids(4)]]), torch.tensor([text_ids(12, 9)])
    options = {"max_new_tokens": 6, "do_sample": False}
    with torch.no_grad():
        before = model(**heard).logits
        trains = {name for name, p in model.named_parameters() if p.requires_grad}
        with model.layers_dropped():
            assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
            assert torch.equal(model.generate(ids, **options), base.generate(ids, **options))
            embeds, speech_ids = merged(model, heard)
            dropped = model(inputs_embeds=embeds, speech_ids=speech_ids).logits
            assert torch.equal(dropped, base(inputs_embeds=embeds).logits)
        assert torch.equal(model(**heard).logits, before) and not torch.equal(dropped, before)
    assert trains == {name for name, p in model.named_parameters() if p.requires_grad}


def test_full_has_no_layers_to_drop():
    with pytest.raises(UserError, match="no layers to drop"), tiny_speech_lm(method="full").layers_dropped():
        pass


def checkpoint(directory, **changes):
    model = depthup.SpeechLM.from_recipe(load_recipe(save_recipe(directory, **changes)))
    shake(model.eval()).save_pretrained(directory / "run")
    depthup.SpeechProcessor.build(model.config).save_pretrained(directory / "run")
    return model, str(directory / "run"), directory / "out"


PLAIN = {
    "layers": {"upscale": {"layer": "transformer", "scope": "all", "num_layers": 2}},
    "full": {"method": "full"},
}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_model_of_the_bases_class_gives_our_logits(kind, tmp_path):
    model, run, out = checkpoint(tmp_path, **PLAIN[kind])
    assert main(["export", run, str(out), "--llm"]) == 0
    plain = AutoModelForCausalLM.from_pretrained(out).eval()
    assert type(plain) is type(model.llm)
    ids = AutoTokenizer.from_pretrained(out)("some words to read", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, model(input_ids=ids).logits)
        options = {"max_new_tokens": 5, "do_sample": False}
        assert torch.equal(plain.generate(ids, **options), model.generate(ids, **options))
    assert (plain.config.model_type, model.config.model_type) == ("llama", "depthup")


def test_the_base_is_exported_as_it_is_stored(tmp_path):
    _, run, out = checkpoint(tmp_path, upscale={"num_layers": 1, "scope": "all"})
    assert main(["export", run, str(out), "--drop-layers"]) == 0
    theirs, ours = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (tmp_path / "base", out))
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert AutoTokenizer.from_pretrained(out)("abc").input_ids == AutoTokenizer.from_pretrained(run)("abc").input_ids


REFUSED = {
    "e_branchformer": {"upscale": {"num_layers": 1, "scope": "all"}},
    "scope speech": {"upscale": {"layer": "transformer", "num_layers": 1}},
    "lora": {"method": "lora"},
    "int8": {"upscale": {**PLAIN["layers"]["upscale"]}, "base_quantization": "int8"},
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_is_no_plain_model_is_refused_in_one_line(word, tmp_path, capsys):
    _, run, out = checkpoint(tmp_path, **REFUSED[word])
    assert main(["export", run, str(out), "--llm"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line and not out.exists()


def test_a_window_that_only_the_plain_model_would_have_is_refused():
    model = tiny_speech_lm(tiny_base("gemma"), layer="transformer", scope="all", placement=[0, 2])
    with pytest.raises(UserError, match="window"):
        plain_llm(model, "run")
    plain_llm(tiny_speech_lm(tiny_base("gemma"), layer="transformer", scope="all", placement=[1, 3]), "run")


def test_full_trained_the_base_so_it_is_not_there_to_export(tmp_path, capsys):
    _, run, out = checkpoint(tmp_path, method="full")
    assert main(["export", run, str(out), "--drop-layers"]) == 2
    assert "no layers to drop" in capsys.readouterr().err
    out.mkdir()
    (out / "file").touch()
    assert main(["export", run, str(out), "--llm"]) == 2
    assert "is not empty" in capsys.readouterr().err
