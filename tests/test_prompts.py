"""Recordings with prompts of their own: asked as they say, answered as they stand, no transcripts to the front end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_run import give_opinions, save_recipe

import depthup
from depthup import api
from depthup.config import AugmentConfig, DataConfig
from depthup.data import load_cuts, read_audio
from depthup.data.batches import BatchStream
from depthup.data.shards import make_shards
from depthup.evaluate.spelling import evaluate_spelling
from depthup.recipe import load_recipe
from depthup.transcribe import hearing
from depthup.transcribe.hearing import transcribe_batch

FRENCH, ECHO, ANSWER = "Speech:<|audio|>\nIn French:", "Once more<|audio|>:", "Là-bas, Bo!"
SAID = ["one", "five six seven"]
"""Of the recordings that have no prompt."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """Of a base with opinions, and two recordings of each of three prompts, the recipe's among them."""
    recipe = save_recipe(tmp_path_factory.mktemp("run"))
    give_opinions(recipe.parent / "base")
    audio = recipe.parent / "audio"
    rows = [json.loads(line) for line in (audio / "manifest.jsonl").read_text().splitlines()][:6]
    for row, prompt in zip(rows, (None, FRENCH, ECHO) * 2, strict=True):
        row |= {"prompt": prompt, "text": ANSWER} if prompt else {}
    (audio / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (audio / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if "prompt" in row))
    return recipe


@pytest.fixture
def tasks(recipe) -> str:
    return str(recipe.parent / "audio/tasks.jsonl")


@pytest.fixture(scope="module")
def built(recipe):
    model = depthup.SpeechLM.from_recipe(load_recipe(recipe, ["--train.ctc_weight=0.5"])).eval()
    return model, depthup.SpeechProcessor.build(model.config)


def batch_of(source: str, processor) -> dict[str, torch.Tensor]:
    data = DataConfig(batch_seconds=30, num_buckets=1, transcripts="spoken")
    plain = AugmentConfig(speed=[], time_masks=0, freq_masks=0)
    return next(iter(BatchStream(load_cuts(source, data), processor, data, plain, seed=0)))


def without_place(prompt: str) -> str:
    return prompt.replace("<|audio|>", "")


def test_one_batch_asks_each_recording_its_own_question(tasks, built, tmp_path):
    _, processor = built
    wanted = [(processor.prompt, text) for text in SAID] + [(p, ANSWER) for p in (FRENCH, ECHO) * 2]
    make_shards(tasks, tmp_path / "shards", shard_clips=4)
    for source in (tasks, str(tmp_path / "shards")):
        batch = batch_of(source, processor)
        found = []
        for ids, labels, real in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            of_prompt = (labels < 0) & (real > 0) & (ids != processor.audio_token_id)
            prompt, text = (processor.decode(ids[kept], skip_special_tokens=True) for kept in (of_prompt, labels >= 0))
            found.append((prompt, text.strip()))
        assert sorted(found) == sorted((without_place(prompt), text) for prompt, text in wanted)
        # The bytes of what was said, which nobody knows of the others.
        assert sorted(batch["ctc_label_lengths"].tolist()) == [-1] * 4 + sorted(map(len, SAID))


def test_the_front_end_learns_from_transcripts_alone(tasks, built):
    model, processor = built
    batch = batch_of(tasks, processor)
    given = [batch[f"{name}"] for name in ("input_features", "input_lengths", "ctc_labels", "ctc_label_lengths")]
    known = given[3] >= 0
    mixed, alone = model.front_end_loss(*given), model.front_end_loss(*(one[known] for one in given))
    torch.testing.assert_close(mixed, alone)
    batch.pop("seconds")
    both = model(**batch, ctc_weight=1.0).loss - model(**batch).loss
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-4)
    nothing = model.front_end_loss(*(one[~known] for one in given))
    nothing.backward()
    assert nothing == 0 and all(p.grad is None or not p.grad.any() for p in model.connector.parameters())
    assert evaluate_spelling(model, processor, tasks, DataConfig()).clips == len(SAID)


def test_an_evaluation_asks_what_training_asks(tasks, built, monkeypatch):
    model, processor = built
    monkeypatch.setattr(hearing, "ANSWER_TOKENS", 6)
    heard = api.evaluate(model, processor, tasks, by=["prompt"]).asr[tasks]
    assert {"None", FRENCH, ECHO} >= set(heard.groups["prompt"].values) >= {FRENCH, ECHO}
    answers = {clip.id: clip.hypothesis for clip in heard.examples}
    cuts = list(load_cuts(tasks, DataConfig()))
    for cut, prompt in zip(cuts, (None, FRENCH, ECHO) * 2, strict=True):
        samples = read_audio(cut, processor.sampling_rate)
        alone = transcribe_batch(model, processor, [samples], prompt=prompt)[0].text
        assert answers[cut.id] == alone
        if prompt:
            batch = processor(prompt, [samples], return_tensors="pt")
            ids = model.generate(**batch, max_new_tokens=6, do_sample=False)[:, batch["input_ids"].shape[1] :]
            assert alone == processor.decode(ids[0], skip_special_tokens=True).strip()
    assert len({answers[cut.id] for cut in cuts[1:3]}) == 2  # two prompts, two answers


def test_a_run_on_tasks_leaves_text_as_it_was(recipe, tasks):
    words = ["--data.train", tasks, "--data.validation", tasks, "--train.front_end_steps=1", "--train.max_steps=2"]
    run = api.train(recipe, [*words, "--train.ctc_weight=0.5", "--train.learning_rate=0.01"])
    model, processor = depthup.load(run)
    text = recipe.parent / "text.txt"
    text.write_text("Some words to read. " * 20)
    assert api.evaluate(model, processor, text=text).drift[str(text)].identical
    answers = str(recipe.parent / "audio/answers.jsonl")
    with pytest.raises(depthup.UserError, match="no clip of data.train has a transcript"):
        api.train(recipe, [*words, "--data.train", answers, "--output_dir", str(recipe.parent / "other")])
    with pytest.raises(depthup.UserError, match="each clip has a `prompt` of its own"):
        evaluate_spelling(model, processor, answers, DataConfig())


@pytest.mark.parametrize("prompt", ["In French:", "<|audio|> or <|audio|>?", 7, " "])
def test_a_prompt_without_one_place_for_the_recording_is_refused_by_its_line(prompt, recipe):
    row = {"audio": "0.flac", "text": "x", "duration": 0.4}
    manifest = recipe.parent / "audio/wrong.jsonl"
    manifest.write_text("\n".join(map(json.dumps, [row, row | {"prompt": prompt}])))
    with pytest.raises(depthup.UserError, match=r"wrong.jsonl:2: `prompt` must hold <\|audio\|> once") as error:
        list(load_cuts(str(manifest), DataConfig()))
    assert "\n" not in str(error.value)
    cuts = list(load_cuts(str(manifest), DataConfig(ignore_fields=["prompt"])))
    cuts[1].supervisions[0].custom = {"prompt": prompt}
    lhotse = manifest.with_name("cuts.jsonl")
    lhotse.write_text("".join(json.dumps(cut.to_dict()) + "\n" for cut in cuts))
    with pytest.raises(depthup.UserError, match="`prompt` must hold"):
        list(load_cuts(str(lhotse), DataConfig()))


def test_a_cell_that_is_empty_is_no_prompt(recipe):
    table = recipe.parent / "audio/table.csv"
    table.write_text("audio,text,prompt\n0.flac,x,\n")
    (cut,) = load_cuts(str(table), DataConfig())
    assert not (cut.supervisions[0].custom or {}).get("prompt")
