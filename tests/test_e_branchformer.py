"""The block is the paper's: where it starts, what text takes of it, what its convolutions see, and ESPnet's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from espnet_like import espnet_like, load_espnet
from safetensors.torch import load_file
from tiny import clip, inputs_of, merged, shake, text_ids, tiny_base, tiny_speech_lm

from depthup.model.layers.kind import View
from depthup.model.layers.spans import Spans
from depthup.model.upscale import inserted_layers

REFERENCE = Path(__file__).parent / "reference" / "espnet_e_branchformer.safetensors"
LOCAL = ("cgmlp.", "norm_mlp.", "depthwise_conv_fusion.", "merge_proj.")
"""What only speech passes."""


@pytest.fixture
def reference():
    return load_file(REFERENCE)


@pytest.fixture
def block(reference):
    block = espnet_like(16, heads=2, feed_forward=32, cgmlp=48, kernel_size=7)
    load_espnet(block, {name.removeprefix("layer."): value for name, value in reference.items()})
    return block


def encode(block, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    view = View(real[:, None, None], torch.arange(real.shape[1]).expand(real.shape), None, real=real)
    with torch.no_grad():
        return block.norm_final(block.encode(x, view))


def test_equals_espnet(block, reference):
    ours = encode(block, reference["x"], torch.ones(1, 20, dtype=torch.bool))
    torch.testing.assert_close(ours, reference["y"], rtol=1e-5, atol=1e-5)


def test_equals_espnet_on_each_clip_of_a_padded_batch(block, reference):
    padded = torch.full((2, 20, 16), 7.0)  # what stands in the padding must not matter
    padded[0], padded[1, :13] = reference["x"][0], reference["x_short"][0]
    ours = encode(block, padded, torch.arange(20) < torch.tensor([[20], [13]]))
    torch.testing.assert_close(ours[:1], reference["y"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1:, :13], reference["y_short"], rtol=1e-5, atol=1e-5)


def test_every_weight_of_espnet_is_used(block, reference):
    ours = sum(p.numel() for n, p in block.named_parameters() if not n.startswith(("norm_in", "proj_")))
    assert ours == sum(v.numel() for k, v in reference.items() if k.startswith("layer."))


def test_it_starts_as_the_paper_says():
    base = tiny_base()
    block = inserted_layers(tiny_speech_lm(base, placement=[1], num_layers=1).llm)[0].block
    below = base.model.layers[1]
    assert torch.equal(block.merge_proj.weight, torch.eye(32, 64)) and not block.merge_proj.bias.any()
    for zero in (block.attn.o_proj, block.feed_forward.down_proj, block.depthwise_conv_fusion.conv):
        assert not zero.weight.any()
    for ours, theirs in (
        (block.attn.q_proj, below.self_attn.q_proj),
        (block.attn.v_proj, below.self_attn.v_proj),
        (block.feed_forward.gate_proj, below.mlp.gate_proj),
        (block.norm_mha, below.input_layernorm),
        (block.norm_ff, below.post_attention_layernorm),
    ):
        assert torch.equal(ours.weight, theirs.weight)


def test_attention_has_a_gradient_at_once_and_a_random_merge_changes_speech_alone():
    inputs = inputs_of([[text_ids(3), clip(33), text_ids(4)]])
    for init in ("copy", "random_merge"):
        base = tiny_base()
        model = tiny_speech_lm(base, scope="all", e_branchformer={"init": init})
        embeds, speech_ids = merged(model, inputs)
        logits = model(inputs_embeds=embeds, speech_ids=speech_ids).logits
        assert torch.equal(logits, base(inputs_embeds=embeds).logits) == (init == "copy")
        assert torch.equal(logits[:, :3], base(inputs_embeds=embeds).logits[:, :3])
        logits.logsumexp(-1).sum().backward()
        assert all(layer.block.attn.o_proj.weight.grad.any() for layer in inserted_layers(model.llm))


@pytest.mark.parametrize("scope", ["all", "from_speech"])
def test_text_takes_the_attention_alone(scope):
    """Whatever stands in the convolutional branch, text without speech does not change."""
    model = shake(tiny_speech_lm(scope=scope))
    inputs = inputs_of([[text_ids(3), clip(33), text_ids(4)]])
    embeds, speech_ids = merged(model, inputs)

    def logits(speech: torch.Tensor | None) -> torch.Tensor:
        return model(inputs_embeds=embeds.detach(), speech_ids=speech).logits

    text, heard = logits(None), logits(speech_ids)
    heard[0, -1].sum().backward()
    local = [p for n, p in model.llm.named_parameters() if ".block." in n and n.split(".block.")[1].startswith(LOCAL)]
    assert all(p.grad is not None and p.grad.any() for p in local)
    with torch.no_grad():
        for p in local:
            p.add_(1.0)
        assert torch.equal(logits(None), text)
        changed = logits(speech_ids)
        assert torch.equal(changed[:, :3], heard[:, :3])  # before the speech
        assert not torch.allclose(changed[:, 3:], heard[:, 3:])


def test_convolutions_see_the_whole_of_their_own_span_and_nothing_else():
    model = tiny_speech_lm(scope="all", num_layers=1, placement=[3])
    with torch.no_grad():
        block = shake(model).llm.model.layers[4].block
        block.attn.o_proj.weight.zero_()  # so that positions meet in the convolutions alone
        embeds, speech_ids = torch.randn(1, 9, 32), torch.tensor([[0, 1, 1, 1, 2, 2, 2, 0, 0]])
        view = View(None, torch.arange(9)[None], None, spans=Spans.find(speech_ids))

        def merged(x: torch.Tensor) -> torch.Tensor:
            return view.at_speech(block._merge, torch.zeros_like(x), x)

        before, reached = merged(embeds), {}
        for position in range(9):
            moved = embeds.clone()
            moved[0, position] += 1.0
            reached[position] = (merged(moved) - before).abs().sum(-1)[0].gt(0).nonzero()[:, 0].tolist()
    assert reached == {
        0: [],
        **dict.fromkeys((1, 2, 3), [1, 2, 3]),
        **dict.fromkeys((4, 5, 6), [4, 5, 6]),
        7: [],
        8: [],
    }
