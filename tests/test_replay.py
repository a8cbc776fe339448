"""Text between recordings: the same batches every time, losses that are what they say, no replay in vain."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from small_run import save_recipe
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

import depthup
from depthup import api
from depthup.config import ReplayConfig
from depthup.data import BatchStream, load_cuts
from depthup.data.replay import TextReplay
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.recipe import load_recipe
from depthup.train.trainer import SpeechTrainer


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return save_recipe(
        tmp_path,
        upscale={"num_layers": 1, "e_branchformer": {"kernel_size": 3, "feed_forward_width": 32}, "scope": "all"},
        replay={"text": str(tmp_path / "text.txt"), "share": 0.5, "batch_tokens": 64, "row_tokens": 16},
    )


def stream_of(loaded, replay: bool = True, skip: int = 0) -> BatchStream:
    with torch.device("cpu"):
        processor = SpeechProcessor.build(SpeechLM.from_recipe(loaded).config)
    text = {"": TextReplay(loaded.replay, processor.tokenizer, loaded.seed, first_batch=2)} if replay else None
    stream = BatchStream(
        load_cuts(loaded.data.train, loaded.data), processor, loaded.data, loaded.augment, 0, texts=text
    )
    stream.skip(skip)
    return stream


def is_text(batch: dict) -> bool:
    return "input_features" not in batch


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_batches_are_the_same_after_skipping_and_with_workers(recipe):
    loaded = load_recipe(recipe)
    whole = list(islice(stream_of(loaded), 14))
    assert 3 <= sum(map(is_text, whole)) <= 11 and not any(map(is_text, whole[:2]))
    assert all(map(same, whole[5:], islice(stream_of(loaded, skip=5), 9)))
    loader = DataLoader(stream_of(loaded), batch_size=None, num_workers=2)
    assert all(map(same, whole, islice(loader, 14)))


def test_replay_takes_no_recording_away(recipe):
    loaded = load_recipe(recipe)
    loaded.augment.speed, loaded.augment.time_masks = [], 0
    spoken = [b for b in islice(stream_of(loaded), 12) if not is_text(b)]
    alone = list(islice(stream_of(loaded, replay=False), len(spoken)))
    assert all(map(same, spoken, alone))


def test_rows_are_the_text(recipe):
    loaded = load_recipe(recipe)
    tokenizer = AutoTokenizer.from_pretrained(loaded.base)
    batch = next(filter(is_text, stream_of(loaded)))
    assert batch["input_ids"].shape == (4, 16) and batch["seconds"] == 0
    text = (recipe.parent / "text.txt").read_text()
    assert all(tokenizer.decode(row) in text for row in batch["input_ids"])


def trainer_of(loaded) -> SpeechTrainer:
    model = SpeechLM.from_recipe(loaded)
    return SpeechTrainer(model, SpeechProcessor.build(model.config), loaded)


def test_losses_are_what_they_say(recipe):
    batch = next(filter(is_text, stream_of(load_recipe(recipe))))
    assert batch.pop("seconds") == 0
    trainer = trainer_of(load_recipe(recipe))
    base = trainer.model.load_base()
    logits = base(batch["input_ids"]).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), expected)

    distilling = trainer_of(load_recipe(recipe, ["--replay.loss=distill"]))
    assert float(distilling.compute_loss(distilling.model, dict(batch))) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in distilling.model.llm.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    changed = distilling.model(input_ids=batch["input_ids"]).logits
    p, q = logits[:, :-1].log_softmax(-1), changed[:, :-1].log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).mean()
    assert kl > 0.01
    torch.testing.assert_close(distilling.compute_loss(distilling.model, dict(batch)), kl)


def test_replay_where_text_cannot_change_is_refused(recipe):
    for words in (["--upscale.scope=speech"], ["--method=lora", "--lora.speech_only=true"]):
        with pytest.raises(depthup.UserError, match="replay"):
            api.train(load_recipe(recipe, [*words, f"--output_dir={recipe.parent / words[0]}"]))


@pytest.mark.parametrize("content", ["", "short"])
def test_too_little_text_is_said(tmp_path, recipe, content):
    (tmp_path / "text.txt").write_text(content)
    with pytest.raises(depthup.UserError, match="replay.text"):
        api.train(load_recipe(recipe))


def test_documents_come_from_jsonl_with_ends_between_them(tmp_path, recipe):
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("ab", "cd")) + "\n")
    tokenizer = AutoTokenizer.from_pretrained(load_recipe(recipe).base)
    replay = TextReplay(ReplayConfig(text=str(file), row_tokens=6, batch_tokens=6), tokenizer, 0)
    assert tokenizer.decode(replay.rows[0]) == "ab</s>cd</s>"
    file.write_text('{"words": "ab"}\n')
    with pytest.raises(depthup.UserError, match="text.jsonl:1"):
        TextReplay(ReplayConfig(text=str(file)), tokenizer, 0)
