"""Linears by oneDNN are linears, where they are wanted and nowhere else."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_run import save_recipe
from tiny import text_ids, tiny_base

from depthup import api
from depthup.model import fast_linear
from depthup.model.fast_linear import fast_linears
from depthup.recipe import load_recipe

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


@pytest.fixture
def products(monkeypatch):
    """Wants them on any machine; counts the products."""
    counts = {"products": 0}
    product = fast_linear._product

    def counted(*args):
        counts["products"] += 1
        return product(*args)

    monkeypatch.setattr(fast_linear, "_pays", lambda: True)
    monkeypatch.setattr(fast_linear, "_product", counted)
    return counts


@pytest.mark.parametrize("rows", [(7,), (3, 5), (2, 3, 4), ()])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_linear_forward_and_backward(rows, frozen, bias, products):
    torch.manual_seed(0)
    x, layer = torch.randn(*rows, 24), torch.nn.Linear(24, 10, bias).requires_grad_(not frozen)
    found = []
    for fast in (False, True):
        layer.zero_grad(set_to_none=True)
        given = x.clone().requires_grad_()
        with fast_linears(CPU) if fast else nullcontext():
            output = layer(given)
        output.square().sum().backward()
        found.append([output, given.grad, *(p.grad for p in layer.parameters())])
    assert products["products"] == 2  # of which the backward pass has one: the weights' gradient is not among them
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None) == (frozen and ours is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_frozen_layer_keeps_no_inputs_for_the_backward_pass(products):
    kept = []
    layer = torch.nn.Linear(24, 10).requires_grad_(False)
    x = torch.randn(5, 24, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor), fast_linears(CPU):
        layer(x)
    assert [tensor.shape for tensor in kept] == [(10, 24)]


def test_what_it_does_not_fit_goes_its_own_way(products):
    with fast_linears(CPU):
        for dtype in (torch.float64, torch.bfloat16):
            x, weight = torch.randn(5, 8, dtype=dtype), torch.randn(3, 8, dtype=dtype)
            assert F.linear(x, weight).dtype == dtype
        assert F.linear(torch.randn(0, 8), torch.randn(3, 8)).shape == (0, 3)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(torch.randn(5, 8), torch.randn(3, 8)).dtype == torch.bfloat16
    assert products["products"] == 0


def test_text_alone_is_computed_as_the_base_computes_it(products):
    base, ids = tiny_base(), torch.tensor([text_ids(11)])
    with torch.no_grad():
        before = base(input_ids=ids).logits
        with fast_linears(CPU):
            inside = base(input_ids=ids).logits
        after = base(input_ids=ids).logits
    assert products["products"] > 0
    assert torch.equal(before, after)
    torch.testing.assert_close(inside, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_training_uses_it_and_ends_where_it_would(tmp_path, products, monkeypatch, checkpointing):
    recipe = save_recipe(tmp_path)
    options = ["--train.max_steps=3", f"--train.gradient_checkpointing={checkpointing}"]

    def trained(name):
        return load_file(api.train(load_recipe(recipe, [*options, f"--output_dir={tmp_path / name}"])) / WEIGHTS)

    fast = trained("fast")
    used = products["products"]
    assert used > 0
    monkeypatch.setattr(fast_linear, "_pays", lambda: False)
    for name, weight in trained("plain").items():
        torch.testing.assert_close(fast[name], weight, rtol=1e-2, atol=2e-4)
    assert products["products"] == used


def test_transcribing_uses_it_and_hears_the_same(tmp_path, products, monkeypatch):
    run = tmp_path / "model"
    api.upscale(load_recipe(save_recipe(tmp_path)), run)
    model, processor = api.load(run)
    audio = [tmp_path / "audio"]
    fast = [transcript.text for transcript in api.transcribe(model, processor, audio, max_new_tokens=4)]
    assert products["products"] > 0 and any(fast)
    monkeypatch.setattr(fast_linear, "_pays", lambda: False)
    assert fast == [transcript.text for transcript in api.transcribe(model, processor, audio, max_new_tokens=4)]
