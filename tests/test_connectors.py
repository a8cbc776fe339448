"""What stands at the positions of speech: a draft is read as the text it is, whatever is beside it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import MELS, SCOPES, VOCAB, clip, shake, text_ids, tiny_base, tiny_speech_lm

from depthup.model.connectors.draft import Draft, DraftConnector, sample_path
from depthup.model.ctc import CLASSES, spell_timed
from depthup.model.positions import IGNORE, grow


def letters(text: str, **_) -> dict:
    """A tokenizer of one token per character."""
    return {
        "input_ids": [2 + ord(c) % (VOCAB - 2) for c in text],
        "offset_mapping": [(i, i + 1) for i in range(len(text))],
    }


class Tokenizer(SimpleNamespace):
    is_fast = True
    __call__ = staticmethod(letters)


def draft_lm(**upscale):
    model = tiny_speech_lm(ctc=True, connector="draft", **upscale)
    model.connector.tokenizer = Tokenizer()
    with torch.no_grad():  # so that something is spelled, and not only what is no UTF-8
        model.connector.ctc_head.linear.bias.view(-1, CLASSES)[:, 98:123] += 3.0
    return model


def inputs_of(rows: list[list], side: str = "left") -> dict[str, torch.Tensor]:
    """Rows of token ids and clips, one placeholder a clip."""
    clips = [piece for row in rows for piece in row if isinstance(piece, torch.Tensor)]
    ids = [torch.tensor([t for p in row for t in ([VOCAB] if isinstance(p, torch.Tensor) else p)]) for row in rows]
    pad = lambda them: torch.nn.utils.rnn.pad_sequence(them, batch_first=True, padding_side=side)  # noqa: E731
    return {
        "input_ids": pad(ids),
        "attention_mask": pad([torch.ones_like(i) for i in ids]),
        "input_features": torch.nn.utils.rnn.pad_sequence(clips, batch_first=True),
        "input_lengths": torch.tensor([len(c) for c in clips]),
    }


def test_spelling_merges_repeats_and_tells_when_each_character_was_through():
    path = [0, 1 + ord(" "), 1 + ord("a"), 1 + ord("a"), 0, 1 + ord("a"), 1 + 0xC3, 0, 1 + 0xA9, 1 + ord(" "), 0]
    assert spell_timed(path) == ("aaé", [2, 5, 8])
    assert spell_timed([0, 1 + 0xFF, 0]) == ("", [])


def test_an_untrained_draft_is_to_the_llm_the_text_that_was_spelled():
    base = tiny_base()
    model = draft_lm(base=base)
    before, after = text_ids(3, 1), text_ids(4, 2)
    inputs = inputs_of([[before, clip(40), after]])
    (spelled,) = model.make_out(inputs["input_features"], inputs["input_lengths"])
    assert len(spelled) > 3
    as_text = torch.tensor([[*before, *letters(" " + spelled)["input_ids"], *after]])
    assert torch.equal(model(**inputs).logits, base(as_text).logits)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("layer", ["transformer", "e_branchformer"])
def test_a_batch_of_drafts_equals_each_row_alone_and_step_by_step(scope, layer):
    torch.manual_seed(0)
    model = shake(draft_lm(scope=scope, layer=layer), 0.05)
    rows = [
        [text_ids(3, 1), clip(40, 1), text_ids(2, 2)],
        [clip(17, 2), text_ids(1, 3), clip(60, 3), text_ids(5, 4)],
        [text_ids(2, 5), clip(90, 4)],
    ]
    together = model.generate(**inputs_of(rows), max_new_tokens=5, do_sample=False)[:, -5:]
    for row, answer in zip(rows, together, strict=True):
        alone = inputs_of([row])
        assert torch.equal(model.generate(**alone, max_new_tokens=5, do_sample=False)[0, -5:], answer)
        whole = dict(alone)
        for token in answer:  # without a cache
            assert model(**whole).logits[0, -1].argmax() == token
            whole["input_ids"] = torch.cat([whole["input_ids"], token[None, None]], 1)
            whole["attention_mask"] = torch.ones_like(whole["input_ids"])


@pytest.mark.parametrize("beams", [1, 2])
def test_generated_rows_begin_with_the_prompts_as_they_were_given(beams):
    model = shake(draft_lm(), 0.05)
    given = inputs_of([[text_ids(3), clip(40), text_ids(2)], [text_ids(6)]])
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": beams}
    ids = model.generate(**given, **options)
    prompt = given["input_ids"].masked_fill(given["input_ids"] == VOCAB, 0)
    assert torch.equal(ids[:, : prompt.shape[1]], prompt) and ids.shape[1] == prompt.shape[1] + 5
    full = model.generate(**given, **options, return_dict_in_generate=True)
    assert torch.equal(full.sequences, ids)


def test_text_beside_drafts_stays_the_base_s_bit_for_bit():
    base = tiny_base()
    model = shake(draft_lm(base=base, scope="speech"))
    ids = torch.tensor([text_ids(9, 1)])
    assert torch.equal(model(input_ids=ids).logits, base(ids).logits)


def test_where_nothing_is_spelled_one_position_holds_what_the_frames_say():
    model = draft_lm()
    model.connector.read = lambda log_probs, lengths: [Draft("", [], [0], [int(n)]) for n in lengths // 4]
    speech = model.embed_speech(clip(40)[None], torch.tensor([40]))
    assert speech.lengths.tolist() == [1] and not speech.embeddings.any()
    shake(model)
    assert model.embed_speech(clip(40)[None], torch.tensor([40])).embeddings.any()


def test_each_frame_belongs_to_one_token():
    connector: DraftConnector = draft_lm().connector
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        path = torch.randint(0, 40, (60,), generator=generator)
        path = torch.where(path < 26, path + 98, 0).tolist()
        draft = connector._spelled(path)
        assert draft.ends[-1] == 60 // connector.sizes.ctc_outputs
        assert draft.ends == sorted(draft.ends) and len(draft.ends) == len(draft.ids)
        assert max([0, *draft.ends[:-1]]) < draft.ends[-1]


def test_what_frames_say_does_not_depend_on_padding():
    connector = draft_lm().connector
    shake(connector)
    frames = torch.randn(1, 20, connector.sizes.encoder_width)
    starts, ends = torch.tensor([[0, 3, 3, 19]]), torch.tensor([[3, 3, 19, 20]])
    alone = connector._said(frames, starts, ends)
    more_frames = torch.nn.functional.pad(frames, (0, 0, 0, 9), value=7.0)
    assert torch.equal(alone, connector._said(more_frames, starts, ends))
    starts, ends = (torch.nn.functional.pad(edges, (0, 2)) for edges in (starts, ends))
    assert torch.equal(alone, connector._said(frames, starts, ends)[:, :4])


def test_the_lm_loss_does_not_reach_the_encoder_and_ctc_does():
    model = draft_lm().train()
    inputs = inputs_of([[text_ids(3, 1), clip(40), text_ids(4, 2)]], "right")
    labels = torch.tensor([[IGNORE] * 4 + text_ids(4, 2)])
    model(**inputs, labels=labels).loss.backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert model.connector.linear2.weight.grad.any()
    ctc = {"ctc_labels": torch.tensor([[99, 100]]), "ctc_label_lengths": torch.tensor([2])}
    model(**inputs, labels=labels, ctc_weight=0.5, **ctc).loss.backward()
    assert all(p.grad is not None for p in model.encoder.parameters())


def test_sampling_leaves_alone_what_is_certain():
    log_probs = torch.full((1, 400, CLASSES), 1e-6).log()
    log_probs[:, :200, 5] = 0.0
    log_probs[:, 200:, 7], log_probs[:, 200:, 8] = torch.tensor(0.6).log(), torch.tensor(0.4).log()
    torch.manual_seed(0)
    path = sample_path(log_probs, 1.0)
    assert (path[:, :200] == 5).all()
    assert 100 < (path[:, 200:] == 7).sum() < 140 and ((path[:, 200:] == 7) | (path[:, 200:] == 8)).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_growing_repeats_placeholders_and_pads_anew(side):
    inputs = inputs_of([[[5], clip(8), [6]], [clip(8), [7], clip(8), [8, 9]]], side)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    labels = ids.masked_fill(ids == VOCAB, IGNORE)
    grown, real, moved = grow(ids, ids == VOCAB, torch.tensor([3, 1, 2]), mask, labels)
    rows = [[5, *[VOCAB] * 3, 6], [VOCAB, 7, VOCAB, VOCAB, 8, 9]]
    for row, got, exists, label in zip(rows, grown, real.bool(), moved, strict=True):
        assert got[exists].tolist() == row
        assert label[exists].tolist() == [IGNORE if t == VOCAB else t for t in row]
        assert exists[0 if side == "right" else -1]
    assert (moved[~real.bool()] == IGNORE).all()


def test_mismatched_placeholders_are_refused():
    model = draft_lm()
    inputs = inputs_of([[clip(20), [3]]])
    inputs["input_ids"] = torch.tensor([[VOCAB, VOCAB, 3]])
    with pytest.raises(ValueError, match="2 placeholders for 1 recordings"):
        model(input_ids=inputs["input_ids"], input_features=torch.zeros(1, 20, MELS), input_lengths=torch.tensor([20]))
