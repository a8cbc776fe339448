"""Text and audio pieces become ids and features in the right order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_run import save_base

from depthup.config import EncoderConfig
from depthup.model.configuration import SpeechLMConfig
from depthup.model.processor import SpeechProcessor


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    base = save_base(tmp_path_factory.mktemp("base"))
    config = SpeechLMConfig(
        base=str(base), encoder=vars(EncoderConfig()), audio_token_id=259, frame_stack=2, prompt="S:<|audio|>\nT:"
    )
    return SpeechProcessor.build(config)


def clip(seconds: float) -> np.ndarray:
    return np.sin(np.arange(int(16000 * seconds)) / 20).astype(np.float32)


def test_markers_become_frames_between_the_text(processor):
    batch = processor(["a<|audio|>b<|audio|>c", "only text"], [clip(0.5), clip(1.0)], padding_side="right")
    ids = batch["input_ids"][0].tolist()
    tokens = {t: processor.tokenizer(t)["input_ids"][0] for t in "abc"}
    assert ids == [tokens["a"]] + [259] * 7 + [tokens["b"]] + [259] * 13 + [tokens["c"]]
    text = batch["input_ids"][1][batch["attention_mask"][1].bool()]
    assert processor.decode(text) == "only text"
    assert batch["input_lengths"].tolist() == [50, 100]


def test_text_alone_is_the_tokenizer_s(processor):
    batch = processor("only text")
    assert batch["input_ids"].tolist() == [processor.tokenizer("only text")["input_ids"]] and len(batch) == 2


def test_markers_and_clips_must_match(processor):
    with pytest.raises(ValueError, match="1 audio pieces for 2"):
        processor("<|audio|><|audio|>", [clip(0.5)])


def test_labels_are_the_transcript_and_the_end(processor):
    batch = processor.training_batch([clip(0.5), clip(0.9)], ["héllo ", "x"])
    for row, text in enumerate(["héllo", "x"]):
        labels = batch["labels"][row]
        kept = labels[labels != -100].tolist()
        assert processor.decode(kept[:-1]) == f" {text}" and kept[-1] == processor.tokenizer.eos_token_id
        assert torch.equal(batch["input_ids"][row][labels != -100], labels[labels != -100])
        spelled = batch["ctc_labels"][row][: batch["ctc_label_lengths"][row]]
        assert bytes(b - 1 for b in spelled.tolist()).decode() == text
    prompt = processor.prompt_batch([clip(0.5)])["input_ids"][0].tolist()
    assert batch["input_ids"][0].tolist()[: len(prompt)] == prompt


def test_chat_templates_take_audio_parts(processor):
    messages = [
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "What is said?"}]},
        {"role": "assistant", "content": "Nothing."},
    ]
    text = processor.apply_chat_template(messages)
    assert text == "user: <|audio|>What is said?\nassistant: Nothing.\n"
    assert processor.apply_chat_template([messages, messages]) == [text, text]
    assert int((processor(text, [clip(0.5)])["input_ids"] == 259).sum()) == 7


def test_saved_and_loaded_is_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = SpeechProcessor.from_pretrained(tmp_path)
    ours, theirs = processor.prompt_batch([clip(0.7)]), loaded.prompt_batch([clip(0.7)])
    assert all(torch.equal(ours[k], theirs[k]) for k in ours) and ours.keys() == theirs.keys()


def test_the_transform_reaches_the_features(processor):
    batch = processor.training_batch([clip(0.5)], ["x"], feature_transform=lambda mel: mel * 0)
    assert batch["input_features"].abs().max() == 0
