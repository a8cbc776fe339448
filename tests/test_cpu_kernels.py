"""Fast kernels compute what PyTorch's compute, where they are wanted and nowhere else."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_run import save_base, save_recipe
from tiny import text_ids, tiny_base
from torch.utils._python_dispatch import TorchDispatchMode

from depthup import api
from depthup.model import cpu_kernels
from depthup.model.base import load_base
from depthup.model.cpu_kernels import fast_kernels
from depthup.recipe import load_recipe
from depthup.train.trainer import SpeechTrainer

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


@pytest.fixture
def products(monkeypatch):
    """Wants them on any machine; counts the products."""
    counts = {"products": 0}
    product = cpu_kernels._product

    def counted(*args):
        counts["products"] += 1
        return product(*args)

    monkeypatch.setattr(cpu_kernels, "_pays", lambda: True)
    monkeypatch.setattr(cpu_kernels, "_product", counted)
    return counts


class Dtypes(TorchDispatchMode):
    """Keeps what attention is computed in."""

    def __init__(self, seen: list[torch.dtype]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "scaled_dot_product" in str(func):
            self.seen.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


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
        with fast_kernels(CPU) if fast else nullcontext():
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
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor), fast_kernels(CPU):
        layer(x)
    assert [tensor.shape for tensor in kept] == [(10, 24)]


def test_what_it_does_not_fit_goes_its_own_way(products):
    with fast_kernels(CPU):
        for dtype in (torch.float64, torch.bfloat16):
            x, weight = torch.randn(5, 8, dtype=dtype), torch.randn(3, 8, dtype=dtype)
            assert F.linear(x, weight).dtype == dtype
        assert F.linear(torch.randn(0, 8), torch.randn(3, 8)).shape == (0, 3)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(torch.randn(5, 8), torch.randn(3, 8)).dtype == torch.bfloat16
    assert products["products"] == 0


@pytest.mark.parametrize("mask", ["none", "some", "added", "causal"])
@pytest.mark.parametrize("pays", [False, True])
def test_attention_in_bfloat16_is_computed_in_float32(mask, pays, monkeypatch):
    """As training calls it, on every CPU: under autocast, which would bring the inputs back to bfloat16."""
    monkeypatch.setattr(cpu_kernels, "_pays", lambda: pays)
    torch.manual_seed(0)
    given = [torch.randn(2, 3, 5, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    options = {
        "none": {},
        "some": {"attn_mask": torch.rand(2, 1, 5, 5) > 0.3, "scale": 0.5},
        "added": {"attn_mask": torch.randn(2, 1, 5, 5).bfloat16(), "dropout_p": 0.0},
        "causal": {"is_causal": True, "enable_gqa": False},
    }[mask]
    if mask == "some":
        options["attn_mask"][..., 0] = True
    seen = []
    in_float32 = {name: x.float() if name == "attn_mask" and mask == "added" else x for name, x in options.items()}
    exact = F.scaled_dot_product_attention(*(x.detach().float() for x in given), **in_float32)
    with torch.autocast("cpu", torch.bfloat16), fast_kernels(CPU), Dtypes(seen):
        output = F.scaled_dot_product_attention(*given, **options)
        with torch.no_grad():  # where nothing is differentiated a cache would be converted at each step
            F.scaled_dot_product_attention(*given, **options)
    assert seen == [torch.float32, torch.bfloat16]
    assert torch.equal(output, exact.to(torch.bfloat16))
    output.float().square().sum().backward()
    assert all(x.grad.dtype == torch.bfloat16 for x in given)


def test_text_alone_is_computed_as_the_base_computes_it(products):
    base, ids = tiny_base(), torch.tensor([text_ids(11)])
    with torch.no_grad():
        before = base(input_ids=ids).logits
        with fast_kernels(CPU):
            inside = base(input_ids=ids).logits
        after = base(input_ids=ids).logits
    assert products["products"] > 0
    assert torch.equal(before, after)
    torch.testing.assert_close(inside, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_training_in_bfloat16_attends_in_float32(tmp_path, monkeypatch, checkpointing):
    monkeypatch.setattr(cpu_kernels, "_pays", lambda: False)
    options = ["--train.max_steps=2", f"--train.gradient_checkpointing={checkpointing}", "--dtype=bfloat16"]
    seen = []
    step = SpeechTrainer.training_step

    def watched(*args, **kwargs):
        with Dtypes(seen):
            return step(*args, **kwargs)

    monkeypatch.setattr(SpeechTrainer, "training_step", watched)
    api.train(load_recipe(save_recipe(tmp_path), options))
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_training_uses_it_and_ends_where_it_would(tmp_path, products, monkeypatch, checkpointing):
    recipe = save_recipe(tmp_path)
    options = ["--train.max_steps=3", f"--train.gradient_checkpointing={checkpointing}"]

    def trained(name):
        return load_file(api.train(load_recipe(recipe, [*options, f"--output_dir={tmp_path / name}"])) / WEIGHTS)

    fast = trained("fast")
    used = products["products"]
    assert used > 0
    monkeypatch.setattr(cpu_kernels, "_pays", lambda: False)
    for name, weight in trained("plain").items():
        torch.testing.assert_close(fast[name], weight, rtol=1e-2, atol=2e-4)
    assert products["products"] == used


def test_transcribing_uses_it_and_hears_the_same(tmp_path, products, monkeypatch):
    run = tmp_path / "model"
    api.upscale(load_recipe(save_recipe(tmp_path)), run)
    model, processor = api.load(run)
    audio = [tmp_path / "audio"]
    options = {"max_new_tokens": 4, "vad": "none"}  # tones are no speech
    fast = [transcript.text for transcript in api.transcribe(model, processor, audio, **options)]
    assert products["products"] > 0 and any(fast)
    monkeypatch.setattr(cpu_kernels, "_pays", lambda: False)
    assert fast == [transcript.text for transcript in api.transcribe(model, processor, audio, **options)]


@pytest.mark.parametrize(
    ("told", "native"),
    [("flags : sse avx512_bf16", True), ("flags : sse amx_bf16", True), ("flags : sse", False), ("", None)],
)
def test_a_cpu_without_bfloat16_is_told_of(told, native, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cpu_kernels, "_cpu", lambda: told)
    assert cpu_kernels.multiplies_bfloat16() is native
    load_base(str(save_base(tmp_path / "base")), None, torch.bfloat16)
    assert ("no instructions" in caplog.text) == (native is False)
