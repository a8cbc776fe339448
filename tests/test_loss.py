"""The loss looks at label positions only, and equals the one over all logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import SCOPES, clip, inputs_of, shake, text_ids, tiny_base, tiny_speech_lm

ROWS = [[text_ids(2, 1), clip(33, 2), text_ids(6, 3)], [clip(21, 4), text_ids(9, 5)]]


def labelled():
    inputs = inputs_of(ROWS)
    labels = inputs["input_ids"].clone()
    labels[(labels == 96) | (inputs["attention_mask"] == 0)] = -100
    labels[0, :3] = -100
    return inputs, labels


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("scope", SCOPES)
def test_label_only_equals_full_logits(scope, family):
    model = shake(tiny_speech_lm(tiny_base(family), scope=scope))
    inputs, labels = labelled()
    ours = model(**inputs, labels=labels).loss
    logits = model(**inputs).logits
    full = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(ours, full)
    a, b = gradients(model, ours), gradients(model, full)
    assert a.keys() == b.keys() and a
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


def test_lm_head_sees_label_positions_only():
    model = tiny_speech_lm()
    inputs, labels = labelled()
    seen = []
    hook = lambda module, args, output: seen.append(tuple(args[0].shape))  # noqa: E731
    model.get_output_embeddings().register_forward_hook(hook)
    model(**inputs, labels=labels)
    assert seen == [(int((labels[:, 1:] != -100).sum()), 32)]


def test_accumulated_batches_weigh_every_label_the_same():
    model = shake(tiny_speech_lm())
    inputs, labels = labelled()
    whole = model(**inputs, labels=labels).loss
    count = int((labels[:, 1:] != -100).sum())
    parts = 0.0
    for i, row in enumerate(ROWS):
        one = inputs_of([row])
        parts += model(**one, labels=labels[i : i + 1, : one["input_ids"].shape[1]], num_items_in_batch=count).loss
    torch.testing.assert_close(whole, parts)


def test_ctc_loss_of_a_batch_is_the_mean_of_its_clips_and_the_warm_up_gives_the_same():
    model = shake(tiny_speech_lm(ctc=True, placement="bottom"))
    rows = [[clip(33, 2), text_ids(6, 3)], [clip(21, 4), text_ids(9, 5)]]
    texts = [torch.tensor([5, 6, 7]), torch.tensor([9, 8])]

    def ctc(indices, **options):
        lengths = torch.tensor([len(texts[i]) for i in indices])
        padded = torch.nn.utils.rnn.pad_sequence([texts[i] for i in indices], batch_first=True)
        inputs = inputs_of([rows[i] for i in indices])
        return model(**inputs, ctc_labels=padded, ctc_label_lengths=lengths, **options).loss

    together = ctc([0, 1], front_end_only=True)
    torch.testing.assert_close(together, (ctc([0], front_end_only=True) + ctc([1], front_end_only=True)) / 2)
    inputs = inputs_of(rows)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == 96, -100)
    with_lm = ctc([0, 1], labels=labels, ctc_weight=1.0) - ctc([0, 1], labels=labels, ctc_weight=0.0)
    torch.testing.assert_close(with_lm, together, rtol=1e-4, atol=1e-4)


def test_the_front_end_learns_alone_without_the_llm():
    model = tiny_speech_lm(ctc=True)
    ran = []
    for layer in model.llm.get_decoder().layers:
        layer.register_forward_hook(lambda *_: ran.append(1))
    batch = inputs_of([[clip(33)]])
    model(
        **batch, front_end_only=True, ctc_labels=torch.tensor([[3, 4]]), ctc_label_lengths=torch.tensor([2])
    ).loss.backward()
    assert not ran
    assert all(p.grad is not None for p in [*model.encoder.parameters(), *model.connector.parameters()])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("layer", ["transformer", "e_branchformer"])
def test_a_bfloat16_base_trains_float32_layers_under_autocast(layer, scope):
    base = tiny_base().bfloat16()
    model = shake(tiny_speech_lm(base, layer=layer, scope=scope, ctc=True), 0.01)
    inputs, labels = labelled()
    ctc = {"ctc_labels": torch.tensor([[5, 6], [7, 8]]), "ctc_label_lengths": torch.tensor([2, 2])}
    with torch.autocast("cpu", torch.bfloat16):
        model(**inputs, labels=labels, ctc_weight=0.3, **ctc).loss.backward()
    for name, p in model.named_parameters():
        assert p.dtype == (
            torch.float32 if p.requires_grad or name.startswith(("encoder", "connector")) else torch.bfloat16
        )
        assert not p.requires_grad or (p.grad is not None and bool(p.grad.isfinite().all())), name
