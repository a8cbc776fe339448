"""A base in 8 or 4 bits stays frozen, lets gradients through exactly, and is the same base after saving and loading."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file
from small_run import save_recipe
from test_checkpoint import inputs, saved
from test_identity import ROWS, train_hard
from tiny import FAMILIES, inputs_of, text_ids, tiny_base, tiny_speech_lm
from torch import nn

import depthup
from depthup.model import quantized
from depthup.model.base import load_base
from depthup.model.fingerprint import fingerprint
from depthup.model.quantized import Int8Linear, count, packed_bytes, quantize
from depthup.model.upscale import base_linears
from depthup.planning.hardware import Device
from depthup.planning.memory import Weights
from depthup.planning.planner import plan_training
from depthup.planning.stand_in import build
from depthup.recipe import load_recipe

NEEDS_LIBRARY = pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes (depthup[quantized]) is missing")
KINDS = ["int8", pytest.param("nf4", marks=NEEDS_LIBRARY)]
WRONG = {"int8": 0.01, "nf4": 0.12}
"""Most that packing may change normal weights, relative to their norm."""


def unpacked(llm: nn.Module) -> nn.Module:
    """A copy with ordinary linears, of the weights that the packed ones multiply with."""
    llm = copy.deepcopy(llm)
    decoder = llm.get_decoder()
    for name in base_linears(llm):
        layer = decoder.get_submodule(name)
        whole = nn.Linear(layer.in_features, layer.out_features, bias=False)
        whole.weight = nn.Parameter(layer(torch.eye(layer.in_features)).T.detach(), requires_grad=False)
        decoder.set_submodule(name, whole)
    return llm


def gradients(model: depthup.SpeechLM) -> dict[str, torch.Tensor]:
    batch = inputs_of(ROWS)
    model(**batch, labels=batch["input_ids"].masked_fill(batch["input_ids"] == 96, -100)).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", ["transformer", "e_branchformer"])
def test_gradients_pass_as_through_whole_weights(kind, layer):
    model = tiny_speech_lm(layer=layer, placement="bottom", quantization=kind)
    whole = copy.deepcopy(model)
    whole.llm = unpacked(model.llm)
    found, expected = gradients(model), gradients(whole)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)
    assert any(gradient.abs().max() > 1e-3 for name, gradient in found.items() if name.startswith("llm."))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["depth_upscale", "lora", "depth_upscale+lora"])
def test_training_leaves_packed_weights(kind, method):
    model = tiny_speech_lm(method=method, quantization=kind)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_hard(model, ROWS)
    changed = {name for name, p in model.llm.named_parameters(prefix="llm") if not torch.equal(p, before[name])}
    assert changed and all(".block." in name or ".lora_" in name for name in changed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_bases_linears_are_packed_after_layers_were_copied(kind, family):
    base = tiny_base(family)
    whole, packed = (tiny_speech_lm(base, layer="transformer", quantization=q) for q in ("none", kind))
    names = {f"llm.model.{name}.weight" for name in base_linears(packed.llm)}
    assert names
    parts = dict(packed.named_parameters())
    for name, p in whole.named_parameters():
        assert (p.is_floating_point() and not torch.equal(p, parts[name])) if name in names else p.equal(parts[name])
        assert count(parts[name]) == p.numel()
    assert not any(parts[name].is_floating_point() for name in names)
    assert packed.summary() == whole.summary()


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_the_packed_bases_after_training(kind, tmp_path):
    model, _ = saved(tmp_path, base_quantization=kind)
    ids = torch.tensor([text_ids(12, 9)])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, model.load_base()(input_ids=ids).logits)
        original = load_base(model.config.base, None, torch.float32)
        assert not torch.equal(model(input_ids=ids).logits, original(input_ids=ids).logits)
    assert model.config.base_hash == fingerprint(original)


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_gives_identical_logits(kind, tmp_path):
    model, checkpoint = saved(tmp_path, base_quantization=kind)
    loaded, processor = depthup.load(checkpoint)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs(processor)).logits, model(**inputs(processor)).logits)
    stored = load_file(checkpoint / "model.safetensors")
    assert set(stored) == {name for name, p in model.named_parameters() if p.requires_grad}
    narrow, _ = depthup.load(checkpoint, dtype="bfloat16")
    ids = torch.tensor([text_ids(12, 9)])
    with torch.no_grad():
        assert torch.equal(narrow(input_ids=ids).logits, narrow.load_base()(input_ids=ids).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_weights_are_near_and_as_large_as_planned(kind):
    base = tiny_base()
    torch.manual_seed(0)
    linear = base.model.layers[0].mlp.up_proj = nn.Linear(512, 384)
    nn.init.normal_(linear.weight)
    quantize(base, kind)
    packed, whole = base.model.layers[0].mlp.up_proj, linear.weight.detach()
    x = torch.randn(7, 512)
    wrong = packed(x) - linear(x)
    assert wrong.norm() / linear(x).norm() < WRONG[kind]
    state = getattr(packed.weight, "quant_state", None)
    scales = [state.absmax, state.state2.absmax] if state else [packed.scale]
    size = sum(t.numel() * t.element_size() for t in (packed.weight, *scales))
    assert packed_bytes(whole, kind) == size


def test_what_cannot_work_is_refused(tmp_path, monkeypatch):
    with pytest.raises(depthup.UserError, match="method full trains the base's weights"):
        load_recipe(None, ["--base_quantization=int8", "--method=full"])
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    recipe = load_recipe(save_recipe(tmp_path), ["--base_quantization=nf4"])
    with pytest.raises(depthup.UserError, match=r"bitsandbytes: pip install 'depthup\[quantized\]'"):
        depthup.SpeechLM.from_recipe(recipe)


def test_plans_count_packed_weights_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    path = save_recipe(tmp_path)

    def recipe(kind, method="depth_upscale"):
        return load_recipe(path, [f"--base_quantization={kind}", f"--method={method}"])

    whole = build(recipe("none"))
    weights = [whole.llm.model.get_submodule(name).weight for name in base_linears(whole.llm)]
    saves = {kind: sum(4 * w.numel() - packed_bytes(w, kind) for w in weights) for kind in ("int8", "nf4")}
    for kind, saved_bytes in saves.items():
        for method in ("depth_upscale", "depth_upscale+lora"):
            packed, usual = (Weights.of(build(recipe(q, method))) for q in (kind, "none"))
            assert usual.frozen - packed.frozen == packed.saved == saved_bytes
    usual, packed = (plan_training(recipe(q), Device("cpu", 0.1)).memory for q in ("none", "nf4"))
    unpacked_at_a_time = max(4 * w.numel() for w in weights)
    assert usual.total - packed.total == saves["nf4"] - unpacked_at_a_time


def test_int8_keeps_zero_rows_and_biases():
    linear = nn.Linear(8, 4)
    nn.init.zeros_(linear.weight[1])
    packed = Int8Linear(linear)
    assert torch.equal(packed(torch.ones(8))[1], linear.bias[1])
