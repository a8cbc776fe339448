"""Drafts without recordings: mistakes as many as asked for, the same batches again, an LLM that learns from them."""

from __future__ import annotations

import doctest
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import save_recipe, save_recordings, save_whisper

import depthup
from depthup import api, files
from depthup.data import BatchStream, load_cuts, simulated_drafts
from depthup.data.simulated_drafts import OF_LETTERS, OF_WORDS, Mistakes, SimulatedDrafts
from depthup.evaluate import score
from depthup.model.encoders.writer import Written
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.planning.hardware import GPUS
from depthup.planning.planner import plan_training
from depthup.recipe import load_recipe
from depthup.train.own_texts import FILE, own_texts

TEXT = "The cat sat on the mat, and the cut was sad. A boat met a bad bet!\nWhere there is a dog, no bird sings.\n"


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 3)
    return save_recipe(
        tmp_path,
        encoder={"name": str(save_whisper(tmp_path / "whisper")), "decoder": True, "language": "en"},
        connector={"name": "draft"},
        data={"train": [], "transcripts": "spoken"},
        augment={},
        simulated_drafts={"text": str(tmp_path / "text.txt"), "share": 1, "batch_texts": 4, "word_errors": 0.2},
    )


def drafts_of(loaded, first_batch: int = 0) -> SimulatedDrafts:
    processor = SpeechProcessor.build(SpeechLM.from_recipe(loaded).config)
    return SimulatedDrafts(loaded.simulated_drafts, loaded.data, processor, loaded.seed, first_batch)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_examples_of_the_docstrings():
    assert doctest.testmod(simulated_drafts).failed == 0


@pytest.mark.parametrize("shares", [OF_WORDS, OF_LETTERS])
def test_mistakes_are_as_many_as_asked_for(shares):
    texts = [TEXT.lower().replace("\n", " ")] * 20
    mistakes, rng = Mistakes(texts, shares), np.random.default_rng(0)
    for rate in (0.0, 0.1, 0.4):
        report = score(texts, [mistakes.of(text, rate, rng) for text in texts])
        assert report.wer == pytest.approx(rate, abs=0.25 * rate)


def test_a_word_gives_way_to_one_that_sounds_alike():
    mistakes, rng = Mistakes(["beat bead pit dog"], {"alike": 1.0}), np.random.default_rng(0)
    assert {mistakes.of("beat", 1.0, rng) for _ in range(40)} == {"bead", "pit"}


def test_text_without_spaces_is_mistaken_character_by_character():
    text = "\u4eca\u5929\u5929\u6c14\u5f88\u597d" * 20
    wrong = Mistakes([text], OF_WORDS).of(text, 0.2, np.random.default_rng(0))
    assert " " not in wrong and wrong != text and abs(len(wrong) - len(text)) < 0.1 * len(text)
    assert Mistakes([text], OF_WORDS).of("\u4eca", 1.0, np.random.default_rng(1))  # never nothing at all


def test_batches_hold_prompt_draft_and_transcript_and_come_again(recipe):
    loaded = load_recipe(recipe)
    drafts = drafts_of(loaded)
    batch = drafts.batch(3)
    assert same(batch, drafts_of(loaded).batch(3)) and not same(batch, drafts.batch(4))
    tokenizer = drafts.processor.tokenizer
    for ids, speech, labels in zip(batch["input_ids"], batch["speech_ids"], batch["labels"], strict=True):
        answer = tokenizer.decode(labels[labels >= 0])
        assert answer.removesuffix("</s>").strip() in drafts.texts and answer.endswith("</s>")
        prompt = tokenizer.decode(ids[: int((labels >= 0).nonzero()[0])])
        before, after = loaded.prompt.split("<|audio|>")
        assert prompt.removeprefix("<s>") == before + tokenizer.decode(ids[speech > 0]) + after


def test_a_draft_that_is_given_is_read_as_one_that_was_heard(recipe):
    """By the same positions and embeddings, before the projection of what was heard has learnt anything."""
    model = SpeechLM.from_recipe(load_recipe(recipe)).eval()
    processor = SpeechProcessor.build(model.config)
    states = torch.zeros(7, model.encoder.kind.output_size)
    model.encoder.write = lambda *_: [Written("the cot", list(range(7)), states)]
    batch = processor.training_batch([np.zeros(8000, np.float32)], ["the cat"])
    names = ("input_ids", "input_features", "input_lengths", "attention_mask", "labels")
    heard = model.hear(*(batch[name] for name in names))
    given = processor.drafted_batch(["the cot"], ["the cat"])
    assert torch.equal(given["speech_ids"], heard.speech_ids)
    assert torch.equal(given["labels"], heard.labels)
    torch.testing.assert_close(model.get_input_embeddings()(given["input_ids"]), heard.inputs_embeds)


def test_no_recording_is_taken_away(recipe, tmp_path):
    words = ["--data.train", str(save_recordings(tmp_path / "more")), "--simulated_drafts.share", "0.5"]
    loaded = load_recipe(recipe, words)
    drafts = drafts_of(loaded, first_batch=2)

    def stream(texts: dict) -> BatchStream:
        data = loaded.data
        return BatchStream(load_cuts(data.train, data), drafts.processor, data, loaded.augment, 0, texts=texts)

    mixed = list(islice(stream({"simulated_drafts.text": drafts}), 14))
    spoken = [batch for batch in mixed if "input_features" in batch]
    assert 3 <= len(spoken) <= 11 and all("input_features" in batch for batch in mixed[:2])
    assert all(map(same, spoken, islice(stream({}), len(spoken))))


def test_the_llm_writes_texts_after_the_transcripts_once_a_run(recipe, tmp_path, monkeypatch):
    recordings = str(save_recordings(tmp_path / "more"))
    words = ["--data.train", recordings, "--simulated_drafts.text", "[]", "--simulated_drafts.own_texts", "9"]
    loaded = load_recipe(recipe, [*words, "--simulated_drafts.share", "0.5"])
    model = SpeechLM.from_recipe(loaded).train()
    processor = SpeechProcessor.build(model.config)
    Path(loaded.output_dir).mkdir()
    prompts, generate, state = [], model.generate, torch.get_rng_state()

    def watched(**given):
        prompts.extend(processor.tokenizer.batch_decode(given["input_ids"], skip_special_tokens=True))
        assert not model.training
        return generate(**given)

    monkeypatch.setattr(model, "generate", watched)
    texts = own_texts(model, processor, loaded)
    transcripts = {cut.supervisions[0].text for cut in load_cuts(recordings, loaded.data)}
    assert len(set(texts)) == len(texts) == 9 and all(any(map(str.isalpha, text)) for text in texts)
    assert prompts and all(set(prompt.strip().split("\n")) <= transcripts for prompt in prompts)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    prompts.clear()
    assert own_texts(model, processor, loaded) == texts and not prompts  # a resumed run reads them
    given = loaded.simulated_drafts, loaded.data, processor, 0, 0
    hashes = {SimulatedDrafts(*given, own).fingerprint() for own in (texts, texts[1:] + ["a dog"])}
    assert len(hashes) == 2  # a run does not go on with other texts
    Path(loaded.output_dir, FILE).unlink()
    run = api.train(loaded)
    assert json.loads((run / FILE).read_text()) == texts


def test_training_needs_no_recordings_moves_the_layers_alone_and_resumes(recipe):
    before = SpeechLM.from_recipe(load_recipe(recipe)).state_dict()
    run = api.train(load_recipe(recipe, ["--train.learning_rate=0.01"]))
    whole = api.load(run)[0].state_dict()
    moved = {name for name in before if not torch.equal(before[name], whole[name])}
    assert moved and all(name.startswith("llm.") for name in moved)

    (run / "model.safetensors").unlink()
    files.remove(run / "checkpoint-10")
    again = api.load(api.train(load_recipe(recipe, ["--train.learning_rate=0.01"])))[0].state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_front_end_learns_after_its_llm_did(recipe, tmp_path):
    start = api.train(load_recipe(recipe, ["--train.max_steps=2"]))
    words = ["--simulated_drafts.text=[]", "--encoder.train=true", "--train.front_end_steps=2", "--train.max_steps=1"]
    words += [f"--data.train={save_recordings(tmp_path / 'more')}", f"--output_dir={tmp_path / 'heard'}"]
    words += ["--train.learning_rate=0", "--train.ctc_weight=0"]
    run = api.load(api.train(load_recipe(recipe, [*words, f"--init_from={start}"])))[0].state_dict()
    layers = {name: tensor for name, tensor in api.load(start)[0].state_dict().items() if name.startswith("llm.")}
    assert all(torch.equal(run[name], tensor) for name, tensor in layers.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--connector.name=frames"], "connector.name frames reads no drafts"),
        (["--simulated_drafts.share=0"], "above 0"),
        (["--simulated_drafts.share=0.5"], "no recordings"),
        (["--simulated_drafts.text=[]", "--simulated_drafts.own_texts=9"], "data.train holds none"),
    ],
)
def test_what_cannot_be_is_said(recipe, words, said):
    with pytest.raises(depthup.UserError, match=said):
        api.train(load_recipe(recipe, words))


def test_text_without_words_is_said(recipe, tmp_path):
    (tmp_path / "text.txt").write_text(" \n--\n")
    with pytest.raises(depthup.UserError, match="simulated_drafts.text"):
        api.train(load_recipe(recipe))


def test_plans_count_what_is_simulated_apart(recipe):
    plan = plan_training(load_recipe(recipe, ["--simulated_drafts.share=0.25"]), GPUS["h100"])
    assert plan.batches["simulated drafts"] == 2.5 and plan.batches["speech"] == 7.5
    with pytest.raises(depthup.UserError, match="hears no recordings"):
        plan_training(load_recipe(recipe), GPUS["h100"], hours=1)
