"""Whisper's own decoder as the maker of drafts: what transformers generates, whatever is beside it in a batch."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_run import save_recipe, save_whisper
from transformers import AutoTokenizer, PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from depthup.api import load, train
from depthup.config import ConnectorConfig, DataConfig, EncoderConfig
from depthup.data import read_audio
from depthup.data.cuts import load_cuts
from depthup.data.transcripts import spoken, transcript
from depthup.errors import UserError
from depthup.evaluate import score
from depthup.model.connectors.connector import Sizes
from depthup.model.connectors.draft import DraftConnector
from depthup.model.encoders import encoder_kind, style, writer
from depthup.model.encoders.style import MARKS
from depthup.model.encoders.writer import (
    AS_TRAINED,
    LONGEST,
    TIMES,
    Writer,
    Written,
    _choose,
    frame_mask,
    loops,
    mended,
    repeating,
)
from depthup.model.speech_lm import SpeechLM
from depthup.recipe import load_recipe

SHARED = Path(__file__).parents[1].parent / "shared"
WHISPER, SPEECH = SHARED / "models" / "whisper-tiny.en", SHARED / "speech" / "commonvoice-en" / "test.jsonl"


@pytest.fixture(scope="module")
def heard():
    """Whisper tiny.en with its decoder, and features and frames of four recordings, without silence behind them."""
    return hear(pad_to_30s=False)


def hear(**settings):
    if not (WHISPER.is_dir() and SPEECH.is_file()):
        pytest.skip(f"needs {WHISPER} and {SPEECH}")
    kind = encoder_kind(EncoderConfig(name=str(WHISPER), decoder=True, train=True, **settings))
    encoder = kind.build(load_weights=True).eval()
    extractor = kind.feature_extractor()
    cuts = list(load_cuts(str(SPEECH), DataConfig()))[:4]
    features = [kind.features(extractor, read_audio(cut, 16000), None, "cpu") for cut in cuts]
    lengths = torch.tensor([len(f) for f in features])
    with torch.no_grad():
        frames, frame_lengths = encoder(kind.pad(features), lengths)
    return encoder, [torch.from_numpy(f) for f in features], frames, frame_lengths


def test_a_draft_is_what_transformers_generates_and_a_batch_equals_each_alone(heard):
    encoder, features, frames, lengths = heard
    model = WhisperForConditionalGeneration.from_pretrained(WHISPER, dtype=torch.float32).eval()
    together = encoder.write(frames, lengths, 6.0)
    for i, clip in enumerate(features):
        with torch.no_grad():
            alone = encoder(clip[None], torch.tensor([len(clip)]))
        (written,) = encoder.write(*alone, 6.0)
        assert written.text == together[i].text and written.text.strip()
        torch.testing.assert_close(written.states, together[i].states, rtol=1e-3, atol=1e-3)
        theirs = model.generate(
            encoder_outputs=BaseModelOutput(alone[0]),
            decoder_input_ids=torch.tensor([[50257, 50362]]),
            max_new_tokens=len(written.states),
        )
        assert encoder.kind.writer.tokenizer.decode(theirs[0], skip_special_tokens=True) == written.text


def test_what_is_guessed_is_written_as_without_a_guess_in_fewer_passes(heard, monkeypatch):
    encoder, _, frames, lengths = heard
    alone = frames[:1, : lengths[0]], lengths[:1], 6.0
    writer, passes = encoder.kind.writer, []
    run = writer.states
    monkeypatch.setattr(writer, "states", lambda *given: passes.append(1) or run(*given))
    (written,) = encoder.write(*alone)
    without, words = len(passes), written.text.split()
    assert len(words) > 3
    for guess, most in (
        (written.text.strip(), 2),
        (" ".join(words[:-1]), without // 2),
        ("else", without),
        (written.text.strip() + " and more that nobody said", 2),
    ):
        passes.clear()
        (again,) = encoder.write(*alone, guess=guess)
        assert again.text == written.text and again.units == written.units and len(passes) <= most
        torch.testing.assert_close(again.states, written.states, rtol=1e-3, atol=1e-3)


def test_what_loops_is_written_anew_and_its_neighbours_stay(heard, monkeypatch):
    encoder, _, frames, lengths = heard
    maker = encoder.kind.writer
    before = encoder.write(frames, lengths, 6.0)
    word, run = maker.tokens("again")[0], maker.logits

    def logits(model, states):
        found = run(model, states)
        if len(states) in (1, len(frames)):  # the second recording, among all and alone
            found[len(states) // 4, ..., word] += 30
        return found

    monkeypatch.setattr(maker, "logits", logits)
    after = encoder.write(frames, lengths, 6.0)
    assert [w.text for i, w in enumerate(after) if i != 1] == [w.text for i, w in enumerate(before) if i != 1]
    assert after[1].text.count("again") > 1 and "again again" not in after[1].text
    alone = frames[1:2, : lengths[1]], lengths[1:2], 6.0
    guessed, plain = (encoder.write(*alone, guess=guess)[0].text for guess in ("again " * 9, ""))
    assert guessed == plain


@torch.no_grad()
def test_nothing_is_written_of_silence_and_noises_and_speech_beside_them_stays():
    encoder, (speech, *_), *_ = hear()
    time, rng = np.arange(48000) / 16000, np.random.default_rng(0)
    noises = [0 * time, np.sin(2 * np.pi * 50 * time) / 10, 0.03 * rng.standard_normal(48000), 1e-3 * rng.random(8000)]
    kind, extractor = encoder.kind, encoder.kind.feature_extractor()
    clips = [kind.features(extractor, noise.astype(np.float32), None, "cpu") for noise in noises]

    def written(clips, **guess):
        frames = encoder(kind.pad(clips), torch.tensor([len(clip) for clip in clips]))
        return encoder.write(*frames, 6.0, **guess)

    (alone,), mixed = written([speech.numpy()]), written([*clips, speech.numpy()])
    assert [one.text for one in mixed] == ["", "", "", "", alone.text] and alone.text
    for guess in ("", "and"):
        (one,) = written(clips[:1], guess=guess)
        assert one.text == "" and one.states.shape == (0, alone.states.shape[1])


@given(st.lists(st.integers(0, 99), min_size=1, max_size=LONGEST, unique=True), st.randoms())
def test_people_may_say_it_four_times_and_nothing_that_may_come_next_repeats(unit, random):
    assert not loops(unit * TIMES) and loops([-1, *unit * (TIMES + 1)])
    written: list[int] = []
    for _ in range(30):
        allowed = [token for token in range(100) if token not in repeating(written)]
        written.append(random.choice(allowed[:3]))
        assert all(written[-n:] != written[-2 * n : -n] for n in range(1, LONGEST + 1) if 2 * n <= len(written))


def test_examples_of_the_docstrings():
    for module in (writer, style):
        assert doctest.testmod(module).attempted and not doctest.testmod(module).failed


def test_few_frames_of_silence_are_heard_as_30_s_of_it(heard):
    without, features, *_ = heard
    kind = encoder_kind(EncoderConfig(name=str(WHISPER), decoder=True))
    encoder, clips = kind.build(load_weights=True).eval(), [clip.numpy() for clip in features]
    lengths = torch.tensor([len(clip) for clip in clips])
    model = WhisperForConditionalGeneration.from_pretrained(WHISPER, dtype=torch.float32).eval()
    with torch.no_grad():
        frames, counted = encoder(kind.pad(clips), lengths)
        few = [written.text for written in encoder.write(frames, counted, 6.0)]
        silence = encoder_kind(EncoderConfig(name=str(WHISPER), pad_to_30s=True)).pad(clips).mT
        theirs = model.generate(silence, decoder_input_ids=torch.tensor([[50257, 50362]] * 4), max_new_tokens=60)
    assert frames.shape[1] < 500
    whole = encoder.kind.writer.tokenizer.batch_decode(theirs, skip_special_tokens=True)
    assert score(whole, few, language="en").wer < 0.05
    assert score(whole, [written.text for written in without.write(*heard[2:], 6.0)], language="en").wer > 0.2


def test_its_loss_is_that_of_transformers(heard):
    encoder, _, frames, lengths = heard
    model = WhisperForConditionalGeneration.from_pretrained(WHISPER, dtype=torch.float32).eval()
    texts, tokenizer = ["he said so", "and went"], encoder.kind.writer.tokenizer
    total = count = 0
    for i, text in enumerate(texts):
        ids = tokenizer(" " + text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        labels = torch.tensor([[-100, *ids]])
        given = torch.tensor([[50257, 50362, *ids[:-1]]])
        out = model(encoder_outputs=(frames[i : i + 1, : lengths[i]],), decoder_input_ids=given, labels=labels)
        total, count = total + float(out.loss) * len(ids), count + len(ids)
    ours = encoder.kind.writer.loss(encoder.model, frames[:2], lengths[:2], texts)
    assert float(ours) == pytest.approx(total / count, rel=1e-4)


def test_a_tokenizer_that_lost_its_first_merge_is_mended_and_a_whole_one_stays(tmp_path):
    if not WHISPER.is_dir():
        pytest.skip(f"needs {WHISPER}")
    whole = AutoTokenizer.from_pretrained(WHISPER)
    told = json.loads((WHISPER / "tokenizer.json").read_text())
    assert "".join(told["model"]["merges"].pop(0)).replace(" ", "") == "\u0120t"
    (tmp_path / "tokenizer.json").write_text(json.dumps(told))
    lost = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), eos_token=whole.eos_token)
    text = " the truth: To the tune of that time, t'is 10 true tales"
    ids = whole(text, add_special_tokens=False)["input_ids"]
    assert mended(whole) is whole and len(lost(text, add_special_tokens=False)["input_ids"]) > len(ids)
    assert mended(lost)(text, add_special_tokens=False)["input_ids"] == ids and mended(lost).decode(ids) == text
    assert mended(lost).eos_token_id == whole.eos_token_id


@torch.no_grad()
def test_transcripts_get_the_style_in_which_the_decoder_writes_the_same_words():
    encoder, _, frames, lengths = hear()
    writer = encoder.kind.writer
    given = encoder.model, frames, lengths
    drafts = [written.text.strip() for written in encoder.write(frames, lengths, 6.0)]
    plain = [spoken(draft)[0] for draft in drafts]
    found = writer.styled(*given, [*plain[:2], None, ""])
    assert found[2:] == [None, ""] and found[:2] == writer.styled(*given, plain)[:2]
    found = writer.styled(*given, plain)
    assert [spoken(text)[0] for text in found] == plain
    assert all(text[0].isupper() for text in found) and any(text.endswith(MARKS[1:]) for text in found)
    likelihoods = [writer.likelihoods(*given, texts) for texts in (plain, found)]
    assert sum(text in drafts for text in found) >= 2 and likelihoods[1].sum() > likelihoods[0].sum() + 10
    # On recordings of other words too nothing is added or lost.
    assert [spoken(text)[0] for text in writer.styled(*given, plain[::-1])] == plain[::-1]


@given(st.text())
def test_a_capital_changes_nothing_that_is_spoken(text):
    for word in spoken(text)[0].split():
        assert spoken(style.capital(word))[0] == word


def test_a_mark_stands_where_nothing_is_likelier_and_a_capital_after_an_end():
    def scores(*, capital=0.0, comma=-9.0, full=-9.0, question=-9.0):
        return [1.0, capital, comma, full, question, -9.0]

    words = ["go", "is", "paris", "far"]
    given = [scores(comma=5), scores(full=3), scores(capital=2), scores(comma=2), scores(full=0.5, question=0.9)]
    assert style.written(words, given, [5, 3, 2, 2.5]) == "go. Is Paris far"
    given[-1][4] = 1.1
    assert style.written(words, given, [5, 3, 2, 2]) == "go. Is Paris, far?"


def test_without_a_ctc_head_the_decoder_alone_teaches_the_encoder(tmp_path):
    whisper = {"name": str(save_whisper(tmp_path / "whisper")), "decoder": True, "language": "en", "train": True}
    train_steps = {
        "max_steps": 1,
        "front_end_steps": 2,
        "ctc_rate": 0,
        "save_steps": 9,
        "eval_steps": 0,
        "report_to": [],
    }
    path = save_recipe(tmp_path, encoder=whisper, connector={"name": "draft"}, train=train_steps)
    model = SpeechLM.from_recipe(load_recipe(path)).train()
    assert model.ctc_head is None and model.makes_out
    heard = torch.randn(2, 60, 80), torch.tensor([60, 40])
    model.front_end_loss(*heard, torch.tensor([[98, 99, 100], [98, 97, 0]]), torch.tensor([3, 2])).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.encoder.kind.writer.loss(model.encoder.model, *model.encoder(*heard), ["abc", "a`"]).backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert any("encoder.layers" in name for name in wanted) and found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    model.config.transcripts = "spoken"
    writer, (frames, count) = model.encoder.kind.writer, model.encoder(*heard)
    texts = [writer.styled(model.encoder.model, frames, count, [letter, letter]) for letter in "abcdefgh"]
    plain, own = next(pair for pair in zip("abcdefgh", texts, strict=True) if pair[1] != [pair[0]] * 2)
    loss = model.front_end_loss(*heard, torch.full((2, 1), ord(plain) + 1), torch.tensor([1, 1]))
    assert float(loss) == pytest.approx(float(writer.loss(model.encoder.model, frames, count, own)))
    trained, _ = load(train(path))
    before = SpeechLM.from_recipe(load_recipe(path)).encoder.state_dict()
    after = trained.encoder.state_dict()
    assert trained.ctc_head is None and any(not torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(UserError, match="train.ctc_rate 0"):
        SpeechLM.from_recipe(load_recipe(path, ["--train.ctc_weight=0.3"]))


def test_each_token_of_the_llm_gets_the_states_of_the_words_it_shares_letters_with():
    class Words:
        is_fast = True

        def __call__(self, text, **_):
            """One token per word, with the space before it."""
            spans, start = [], 0
            for word in text.split(" ")[1:]:
                spans.append((start, start + 1 + len(word)))
                start += 1 + len(word)
            return {"input_ids": list(range(len(spans))), "offset_mapping": spans}

    sizes = Sizes(4, 8, 1, 0, 1.0, Words, writes=True, spoken=True)
    connector = DraftConnector(ConnectorConfig(name="draft", slices=1), sizes)
    pieces = [" It", "'s", " nine", "teen", ",", " isn't", " it", "?"]
    written = Written("".join(pieces), [i for i, piece in enumerate(pieces) for _ in piece], torch.zeros(8, 4))
    draft = connector._written(written)
    assert draft.text == "it's nineteen isn't it"
    assert list(zip(draft.starts, draft.ends, strict=True)) == [(0, 2), (2, 4), (5, 6), (6, 7)]


@pytest.mark.parametrize(
    "text, plain",
    [
        ("Don\u2019t go -- it\u2019s 5 o\u2019clock!", "don't go it's 5 o'clock"),
        ("\u00abL\u2019\u00e9t\u00e9 \u00bb, dit-il.", "l'\u00e9t\u00e9 dit il"),
        ("'quoted' rock 'n' roll", "quoted rock n roll"),
        ("\u4f60\u597d\uff0c\u4e16\u754c", "\u4f60\u597d \u4e16\u754c"),
        ("  ...  ", ""),
    ],
)
def test_spoken_transcripts(text, plain):
    kept, places = spoken(text)
    assert kept == plain == transcript(text, DataConfig(transcripts="spoken"))
    assert len(places) == len(kept)
    assert all(text[p].lower() == c for c, p in zip(kept, places, strict=True) if c.isalnum())


def test_an_english_model_takes_no_language_and_a_multilingual_one_only_those_it_knows(heard):
    encoder, _, frames, lengths = heard
    writer = encoder.kind.writer
    real = torch.ones(frames.shape[:2], dtype=torch.bool)
    assert writer.beginning(encoder.model, frames, real).tolist() == [[50257, 50362]] * 4
    tokens = {"<|startoftranscript|>": 0, "<|en|>": 1, "<|fr|>": 2, "<|transcribe|>": 3, "<|notimestamps|>": 4}
    assert writer.language("en") == AS_TRAINED
    with pytest.raises(UserError, match="writes English alone"):
        writer.language("de")
    several = Writer(EncoderConfig(name="w", language="fr"), WhisperConfig(), frame_mask)
    several.tokenizer = SimpleNamespace(get_vocab=lambda: tokens)
    assert several.beginning(None, frames[:1], real).tolist() == [[0, 2, 3, 4]]
    assert [several.token_of(several.language(name)) for name in ("en", "EN-gb", "French")] == [1, 1, 2]
    given = torch.tensor([several.language("en"), AS_TRAINED])
    assert several.beginning(None, frames[:2], real, given).tolist() == [[0, 1, 3, 4], [0, 2, 3, 4]]
    several.config.language = "xx"
    with pytest.raises(UserError, match="encoder.language xx"):
        several.beginning(None, frames[:1], real)


def test_a_token_in_doubt_is_drawn_by_its_chances_and_a_certain_one_is_kept():
    torch.manual_seed(0)
    logits = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.992, 0.003, 0.005, 0.0]]).log()
    drawn = torch.stack([_choose(logits, 2.0) for _ in range(4000)])
    shares = torch.stack([(drawn[:, 0] == token).float().mean() for token in range(4)])
    torch.testing.assert_close(shares, logits[0].div(2).softmax(-1), rtol=0, atol=0.03)
    assert set(drawn[:, 1].tolist()) == {0}
