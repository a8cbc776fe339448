"""Straight after insertion nothing has changed; with scopes `speech` and `from_speech` text never changes."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, LAYERS, SCOPES, clip, inputs_of, merged, shake, text_ids, tiny_base, tiny_speech_lm

ROWS = [[text_ids(3, 1), clip(33, 2), text_ids(4, 3)], [clip(21, 4), text_ids(6, 5)]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("placement", ["interleaved", "sandwich", "top", [0, 0]])
def test_insertion_changes_no_bit(family, layer, scope, placement):
    base = tiny_base(family)
    model = tiny_speech_lm(base, layer=layer, scope=scope, placement=placement)
    ids = torch.tensor([text_ids(11), text_ids(11, 1)])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
        inputs = inputs_of(ROWS)
        embeds, speech_ids = merged(model, inputs)
        mask = inputs["attention_mask"]
        heard = model(inputs_embeds=embeds, speech_ids=speech_ids, attention_mask=mask).logits
        assert torch.equal(heard, base(inputs_embeds=embeds, attention_mask=mask).logits)


@pytest.mark.parametrize("options", [{"width": 16}, {"init": "random"}, {"feed_forward_width": 16}])
@pytest.mark.parametrize("scope", SCOPES)
def test_insertion_changes_no_bit_with_other_e_branchformers(options, scope):
    base = tiny_base()
    model = tiny_speech_lm(base, scope=scope, e_branchformer=options)
    inputs = inputs_of(ROWS)
    with torch.no_grad():
        embeds, speech_ids = merged(model, inputs)
        heard = model(inputs_embeds=embeds, speech_ids=speech_ids, attention_mask=inputs["attention_mask"]).logits
        assert torch.equal(heard, base(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits)
        changed = shake(model)(inputs_embeds=embeds, speech_ids=speech_ids).logits
    assert not torch.equal(changed, heard)


def train_hard(model, rows, steps=3):
    """A few steps with a large learning rate."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    inputs = inputs_of(rows)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == 96, -100)
    labels[inputs["attention_mask"] == 0] = -100
    for _ in range(steps):
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return model.eval()


def with_lora(scope):
    return {"method": "lora", "lora_speech_only": True} if scope == "lora" else {"scope": scope}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", ["speech", "from_speech", "lora"])
@pytest.mark.parametrize("layer", LAYERS)
def test_text_is_bit_identical_after_training(family, layer, scope):
    base = tiny_base(family)
    model = train_hard(tiny_speech_lm(base, layer=layer, **with_lora(scope)), ROWS)
    text = text_ids(12, 9)
    alone = torch.tensor([text])
    beside = inputs_of([*ROWS, [text]], side="left")
    with torch.no_grad():
        assert torch.equal(model(input_ids=alone).logits, base(input_ids=alone).logits)
        options = {"max_new_tokens": 6, "do_sample": False}
        assert torch.equal(model.generate(alone, **options), base.generate(alone, **options))
        # Beside speech, against the base on a batch of that shape.
        embeds, speech_ids = merged(model, beside)
        mask = beside["attention_mask"]
        heard = model(inputs_embeds=embeds, speech_ids=speech_ids, attention_mask=mask).logits
        read = base(inputs_embeds=embeds, attention_mask=mask).logits
    assert torch.equal(heard[2], read[2])
    assert not torch.equal(heard[0], read[0])  # the training did something


@pytest.mark.parametrize("layer", LAYERS)
def test_scope_all_changes_text(layer):
    base = tiny_base()
    model = train_hard(tiny_speech_lm(base, layer=layer, scope="all"), ROWS)
    ids = torch.tensor([text_ids(12, 9)])
    with torch.no_grad():
        assert not torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)


METHODS = {
    "full": {"method": "full"},
    "lora": {"method": "lora"},
    "depth_upscale transformer": {"layer": "transformer"},
    "depth_upscale e_branchformer": {"layer": "e_branchformer", "ctc": True},
    "depth_upscale all": {"layer": "e_branchformer", "scope": "all"},
    "hybrid": {"method": "depth_upscale+lora"},
}


@pytest.mark.parametrize("name", METHODS)
def test_what_is_frozen_stays_and_what_trains_moves(name):
    model = tiny_speech_lm(**METHODS[name])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train_hard(model, ROWS)
    for n, p in model.named_parameters():
        if not p.requires_grad:
            assert torch.equal(p, before[n]), f"{n} is frozen and moved"
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    expected = {
        "full": "llm.model.layers.3.mlp.down_proj.weight",
        "lora": "llm.model.layers.3.self_attn.q_proj.lora_B.default.weight",
        "depth_upscale transformer": "llm.model.layers.1.block.layer.mlp.down_proj.weight",
        "depth_upscale e_branchformer": "llm.model.layers.1.block.merge_proj.weight",
        "depth_upscale all": "llm.model.layers.1.block.merge_proj.weight",
        "hybrid": "llm.model.layers.1.block.merge_proj.weight",
    }[name]
    assert {expected, "connector.linear1.weight", "encoder.conv1.weight"} <= moved
    base_weights = {n for n in moved if n.startswith("llm.") and "lora_" not in n and ".block." not in n}
    assert bool(base_weights) == (name == "full")


def test_text_before_speech_in_the_cache_is_as_if_seen_at_once():
    """A text turn first, then a turn with speech: the inserted layers catch up on what they skipped."""
    for layer in LAYERS:
        model = shake(tiny_speech_lm(layer=layer, scope="from_speech"))
        whole = inputs_of([[text_ids(5, 1), clip(33, 2), text_ids(4, 3)]])
        with torch.no_grad():
            embeds, speech_ids = merged(model, whole)
            at_once = model(inputs_embeds=embeds, speech_ids=speech_ids).logits
            first = model(inputs_embeds=embeds[:, :5], use_cache=True)
            second = model(
                inputs_embeds=embeds[:, 5:], speech_ids=speech_ids[:, 5:], past_key_values=first.past_key_values
            )
        torch.testing.assert_close(second.logits, at_once[:, 5:], rtol=1e-4, atol=1e-4)
