"""What a causal LM of transformers is asked for beside plain forward passes: given, or refused in one line."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import SCOPES, VOCAB, clip, inputs_of, shake, text_ids, tiny_base, tiny_speech_lm

from depthup.errors import UserError

TEXT = torch.tensor([text_ids(8)])
SPEECH = [text_ids(3), clip(40), text_ids(4)]
GREEDY = {"max_new_tokens": 6, "do_sample": False}


@torch.no_grad()
@pytest.mark.parametrize("connector", ["frames", "draft"])
def test_labels_may_be_the_input_ids(connector):
    """Placeholders are no labels, and text alone has the base's own loss."""
    base = tiny_base()
    model = shake(tiny_speech_lm(base, ctc=True, connector=connector), 0.01)
    assert torch.equal(model(input_ids=TEXT, labels=TEXT).loss, base(input_ids=TEXT, labels=TEXT).loss)
    if connector == "draft":
        model.connector.sizes.tokenizer = lambda: pytest.fail("nothing is spelled, so nothing is tokenized")
        model.ctc_head.linear.bias.view(model.ctc_head.outputs, -1)[:, 0] = 1e4  # blanks alone
    inputs = inputs_of([SPEECH])
    if connector == "draft":
        ids = torch.tensor([[*SPEECH[0], VOCAB, *SPEECH[2]]])
        inputs = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    masked = inputs["input_ids"].masked_fill(inputs["input_ids"] == VOCAB, -100)
    assert torch.equal(model(**inputs, labels=inputs["input_ids"]).loss, model(**inputs, labels=masked).loss)


@torch.no_grad()
def test_ctc_may_be_asked_for_where_there_is_none():
    for model, inputs in ((tiny_speech_lm(ctc=True), {"input_ids": TEXT}), (tiny_speech_lm(), inputs_of([SPEECH]))):
        outputs = model(**inputs, return_ctc=True)
        assert outputs.ctc_log_probs is None and torch.equal(outputs.logits, model(**inputs).logits)
    assert tiny_speech_lm(ctc=True)(**inputs_of([SPEECH]), return_ctc=True).ctc_log_probs is not None


@torch.no_grad()
@pytest.mark.parametrize("scope", SCOPES)
def test_text_can_be_exported_and_speech_is_refused_in_one_line(scope):
    model = shake(tiny_speech_lm(scope=scope))
    exported = torch.export.export(model, (), {"input_ids": TEXT, "use_cache": False}, strict=False).module()
    torch.testing.assert_close(exported(input_ids=TEXT, use_cache=False).logits, model(input_ids=TEXT).logits)
    with pytest.raises(UserError, match="torch.export: .* `depthup export RUN DIR --llm`"):
        torch.export.export(model, (), {**inputs_of([SPEECH]), "use_cache": False}, strict=False)


@torch.no_grad()
@pytest.mark.parametrize("scope", SCOPES)
def test_caches_and_guesses_of_every_kind_give_the_same_tokens(scope):
    base = tiny_base()
    model = shake(tiny_speech_lm(base, scope=scope))
    inputs = inputs_of([SPEECH])
    greedy = model.generate(**inputs, **GREEDY)
    for options in ({"cache_implementation": "static", "disable_compile": True}, {"prompt_lookup_num_tokens": 3}):
        for _ in range(2):  # a static cache is used again
            assert torch.equal(model.generate(**inputs, **GREEDY, **options), greedy), options
    of_text = model.generate(TEXT, **GREEDY)
    for options in ({"assistant_model": copy.deepcopy(base)}, {"assistant_early_exit": 2}):
        assert torch.equal(model.generate(TEXT, **GREEDY, **options), of_text)
        with pytest.raises(UserError, match=f"{next(iter(options))} does not hear"):
            model.generate(**inputs, **GREEDY, **options)
