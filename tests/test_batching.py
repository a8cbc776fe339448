"""One clip alone, in a batch, padded left or right: the same. Step by step: the same as at once."""

from __future__ import annotations

import pytest
import torch
import transformers
from packaging.version import Version
from tiny import FAMILIES, LAYERS, SCOPES, clip, inputs_of, merged, shake, text_ids, tiny_base, tiny_speech_lm

from depthup.model.layers.spans import Spans

SHORT = [text_ids(2, 1), clip(26, 2), text_ids(3, 3), clip(37, 4), text_ids(4, 5)]
LONG = [clip(90, 6), text_ids(9, 7)]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
CROPS = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="older caches cannot crop a layer that holds nothing"
)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_batch_equals_single(layer, scope, side):
    model = shake(tiny_speech_lm(layer=layer, scope=scope))
    with torch.no_grad():
        alone = model(**inputs_of([SHORT])).logits[0]
        batch = inputs_of([SHORT, LONG], side)
        together = model(**batch).logits[0]
    torch.testing.assert_close(together[batch["attention_mask"][0].bool()], alone, **CLOSE)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_cache_equals_full_passes(family, layer, scope):
    model = shake(tiny_speech_lm(tiny_base(family), layer=layer, scope=scope))
    inputs = inputs_of([SHORT, LONG, [text_ids(6, 8)]], side="left")
    with torch.no_grad():
        cached = model.generate(**inputs, max_new_tokens=8, do_sample=False)[:, -8:]
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        for _ in range(8):
            rest = {k: inputs[k] for k in ("input_features", "input_lengths")}
            position_ids = (mask.cumsum(1) - 1).clamp(min=0)
            logits = model(input_ids=ids, attention_mask=mask, position_ids=position_ids, **rest).logits
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    assert torch.equal(cached, ids[:, -8:])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_cached_logits_equal_full_logits(layer, scope):
    model = shake(tiny_speech_lm(layer=layer, scope=scope))
    whole = inputs_of([SHORT])
    with torch.no_grad():
        full = model(**whole).logits
        split = full.shape[1] - 3
        embeds, speech_ids = merged(model, whole)
        out = model(inputs_embeds=embeds[:, :split], speech_ids=speech_ids[:, :split], use_cache=True)
        steps = [out.logits[:, -1]]
        for i in range(split, full.shape[1]):
            out = model(inputs_embeds=embeds[:, i : i + 1], past_key_values=out.past_key_values)
            steps.append(out.logits[:, -1])
    torch.testing.assert_close(torch.stack(steps, 1), full[:, split - 1 :], **CLOSE)


@pytest.mark.parametrize("scope", [pytest.param("speech", marks=CROPS), "from_speech", "all"])
def test_cropped_cache_continues_as_if_nothing_had_been_added(scope):
    model = shake(tiny_speech_lm(scope=scope))
    next_ids = torch.tensor([[5]])
    with torch.no_grad():
        cache = model(**inputs_of([SHORT]), use_cache=True).past_key_values
        expected = model(input_ids=next_ids, past_key_values=cache).logits
        cache.crop(-1)
        model(input_ids=torch.tensor([[7, 8]]), past_key_values=cache)
        cache.crop(-2)
        again = model(input_ids=next_ids, past_key_values=cache).logits
    torch.testing.assert_close(again, expected, **CLOSE)


@pytest.mark.parametrize("scope", SCOPES)
def test_one_beam_in_several_rows_is_greedy_of_each(scope):
    """Beam search repeats rows with several clips; every beam must hear its own row's clips in order."""
    model = shake(tiny_speech_lm(scope=scope))
    inputs = inputs_of([SHORT, LONG], side="left")
    options = {"max_new_tokens": 5, "do_sample": False}
    with torch.no_grad():
        two = model.generate(**inputs, num_beams=3, **options)
        one = model.generate(**inputs_of([SHORT]), num_beams=3, **options)
    assert torch.equal(two[0, -5:], one[0, -5:])


def test_placeholders_must_match_frames():
    inputs = inputs_of([SHORT])
    inputs["input_ids"][0, -1] = 96
    with pytest.raises(ValueError, match="placeholders"):
        tiny_speech_lm()(**inputs)


def test_placeholders_without_features_are_refused():
    inputs = inputs_of([SHORT])
    with pytest.raises(ValueError, match="input_features"):
        tiny_speech_lm()(input_ids=inputs["input_ids"])


def test_pieces_side_by_side_are_spans_of_their_own():
    speech_ids = torch.tensor([[0, 1, 1, 2, 2, 2, 0], [0, 0, 3, 3, 0, 3, 3]])
    spans = Spans.find(speech_ids)
    assert spans.real.sum(1).tolist() == [2, 3, 2, 2]
    positions = torch.arange(14).view(2, 7, 1).float()
    gathered = spans.gather(positions)[..., 0]
    assert [row[real].tolist() for row, real in zip(gathered, spans.real, strict=True)] == [
        [1, 2],
        [3, 4, 5],
        [9, 10],
        [12, 13],
    ]
    assert torch.equal(spans.scatter(positions, spans.gather(positions)), positions)
