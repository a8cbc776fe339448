"""Every speech encoder: padding changes nothing, frozen stays frozen, and frames are counted before they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from small_run import save_base, save_recipe
from tiny_encoders import ENCODERS, save_encoder
from transformers import WhisperModel

import depthup
from depthup.config import EncoderConfig
from depthup.model.encoders import EncoderKind, SpeechEncoder, encoder_kind, silence
from depthup.recipe import load_recipe


def clips(*lengths: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).standard_normal(n).astype(np.float32) * 0.1 for n in lengths]


@dataclass
class Ears:
    """A kind of encoder with weights and feature extractor."""

    kind: EncoderKind
    encoder: SpeechEncoder
    extractor: Any

    def __call__(self, *lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames of clips of so many samples, and their lengths."""
        padded = [np.pad(clip, (0, max(0, self.kind.shortest - len(clip)))) for clip in clips(*lengths)]
        features = [self.kind.features(self.extractor, clip, None, "cpu") for clip in padded]
        assert all(f.shape[1] == self.kind.feature_size for f in features)
        with torch.no_grad():
            return self.encoder(self.kind.pad(features), torch.tensor([len(f) for f in features]))


SLOW = {"SeamlessM4T": pytest.mark.slow}  # the whole model with its vocoder
NAMES = [
    pytest.param(name, marks=SLOW.get(name, ()))
    for name in ("fbank", "fbank, layers", "whisper, padded", "whisper, alone", "whisper, trained", *ENCODERS)
]


@pytest.fixture(scope="module", params=NAMES)
def ears(request, tmp_path_factory) -> Ears:
    variants: dict[str, Any] = {"fbank, layers": {"num_layers": 2}, "whisper, padded": {"pad_to_30s": True}}
    variants["whisper, alone"] = {"pad_to_30s": False}
    variants["whisper, trained"] = {"train": True}  # by another attention kernel on CPUs
    changes = variants.get(request.param, {})
    name = request.param.split(",")[0] if changes else request.param
    if name != "fbank":
        name = str(save_encoder(tmp_path_factory.mktemp("encoder"), name))
    kind = encoder_kind(EncoderConfig(name=name, **changes))
    return Ears(kind, kind.build(load_weights=True).eval(), kind.feature_extractor())


def test_a_clip_is_heard_alike_alone_and_in_a_batch(ears):
    # Odd and even numbers of frames, whose last convolutions reach into the padding.
    for short in (4001, 6900, 7300):
        (alone,), _ = ears(short)
        frames, _ = ears(short, 16500)
        torch.testing.assert_close(frames[0, : len(alone)], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("samples", [1, 800, 4001, 16000])
def test_any_length_gives_as_many_frames_as_are_counted(ears, samples):
    frames, lengths = ears(samples)
    assert frames.shape == (1, int(lengths[0]), ears.kind.output_size) and frames.shape[1] >= 1
    assert frames.isfinite().all()


def test_frames_come_at_the_rate_that_is_said(ears):
    seconds = 8
    _, lengths = ears(16000 * seconds)
    assert int(lengths[0]) == pytest.approx(seconds * ears.kind.frame_rate, abs=2)


@pytest.mark.parametrize("name", ["fbank", "whisper", "wav2vec2, group norm", "parakeet encoder"])
def test_the_processor_puts_a_placeholder_for_each_frame(name, tmp_path):
    encoder = name if name == "fbank" else str(save_encoder(tmp_path / "encoder", name))
    model = depthup.SpeechLM.from_recipe(load_recipe(save_recipe(tmp_path, encoder={"name": encoder}, augment={})))
    processor = depthup.SpeechProcessor.build(model.config)
    for samples in (20, 16000):
        batch = processor("<|audio|>", clips(samples))
        speech = model.embed_speech(batch["input_features"], batch["input_lengths"])
        count = int((batch["input_ids"] == model.config.audio_token_id).sum())
        assert count == int(speech.lengths[0]) == speech.embeddings.shape[1] >= 1


@pytest.mark.parametrize("name", ["Qwen2-Audio", "parakeet CTC"])
def test_of_a_larger_model_the_encoder_s_own_weights_are_loaded(name, tmp_path):
    kind = encoder_kind(EncoderConfig(name=str(save_encoder(tmp_path, name))))
    ours = kind.build(load_weights=True).model.state_dict()
    torch.manual_seed(0)
    with torch.no_grad():
        whole = ENCODERS[name][0]()
        for parameter in whole.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    theirs = {k: v for k, v in whole.state_dict().items() if "audio_tower." in k or k.startswith("encoder.")}
    assert ours and len(ours) == len(theirs)
    assert all(torch.equal(ours[k.split("audio_tower.")[-1].removeprefix("encoder.")], v) for k, v in theirs.items())


def test_weights_that_are_missing_are_said_to_be(tmp_path):
    directory = save_encoder(tmp_path, "whisper")
    config = (directory / "config.json").read_text()
    (directory / "config.json").write_text(config.replace('"encoder_layers": 2', '"encoder_layers": 3'))
    with pytest.raises(depthup.UserError, match="has no weights for .* tensors"):
        encoder_kind(EncoderConfig(name=str(directory))).build(load_weights=True)


def test_a_directory_that_is_not_there_is_said_not_to_be():
    with pytest.raises(depthup.UserError, match=r"encoder \.\./nowhere/whisper: no such directory"):
        encoder_kind(EncoderConfig(name="../nowhere/whisper"))


def test_masks_on_samples_are_refused(tmp_path):
    encoder = {"name": str(save_encoder(tmp_path / "encoder", "hubert"))}
    recipe = load_recipe(save_recipe(tmp_path, encoder=encoder, augment={"time_masks": 2}))
    with pytest.raises(depthup.UserError, match="hears samples"):
        depthup.SpeechLM.from_recipe(recipe)


def test_padding_to_30_s_is_whisper_s_silence(tmp_path):
    directory = save_encoder(tmp_path / "encoder", "whisper")
    kind = encoder_kind(EncoderConfig(name=str(directory), pad_to_30s=True))
    (clip,), theirs = clips(16000), kind.feature_extractor()
    ours = kind.pad([kind.features(theirs, clip, None, "cpu")])[0].T
    expected = theirs(clip, sampling_rate=16000, return_tensors="pt")["input_features"][0]
    edge = 100  # where the clip ends, one reflects it and the other goes on with silence
    torch.testing.assert_close(ours[:, : edge - 2], expected[:, : edge - 2], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours[:, edge + 2 :], expected[:, edge + 2 :], atol=1e-4, rtol=0)


def test_a_clip_that_is_too_long_and_padding_that_does_nothing_are_refused(tmp_path):
    recipe = save_recipe(tmp_path, encoder={"name": str(save_encoder(tmp_path / "encoder", "whisper"))})
    processor = depthup.SpeechProcessor.build(depthup.SpeechLM.from_recipe(load_recipe(recipe)).config)
    with pytest.raises(depthup.UserError, match=r"31\.0 s: the encoder .* hears at most 30 s"):
        processor("<|audio|>", clips(31 * 16000))
    with pytest.raises(depthup.UserError, match="pad_to_30s"):
        encoder_kind(EncoderConfig(name="fbank", pad_to_30s=True))


@pytest.mark.parametrize("train", [False, True])
def test_a_frozen_encoder_gets_no_gradient_and_a_trained_one_does(train, tmp_path):
    encoder = {"name": str(save_encoder(tmp_path / "encoder", "whisper")), "train": train}
    model = depthup.SpeechLM.from_recipe(load_recipe(save_recipe(tmp_path, encoder=encoder)))
    processor = depthup.SpeechProcessor.build(model.config)
    batch = processor.training_batch(clips(9000), ["one two"])
    model(**{k: v for k, v in batch.items() if not k.startswith("ctc")}).loss.backward()
    weight = model.encoder.model.layers[0].fc1.weight
    assert weight.requires_grad == train and (weight.grad is not None) == train
    assert not hasattr(model.encoder.model, "decoder")


def test_whisper_on_a_padded_clip_equals_hugging_face(tmp_path):
    directory = save_encoder(tmp_path / "encoder", "whisper")
    ours = encoder_kind(EncoderConfig(name=str(directory), pad_to_30s=True)).build(load_weights=True)
    theirs = WhisperModel.from_pretrained(directory).get_encoder()
    features = torch.randn(1, 80, 3000)
    with torch.no_grad():
        expected = theirs(features).last_hidden_state
        torch.testing.assert_close(ours(features.mT, torch.tensor([3000]))[0], expected)
        # Unpadded and 30 s long, our own loop over the layers gives the same.
        ours.kind.padded_length = None
        torch.testing.assert_close(ours(features.mT, torch.tensor([3000]))[0], expected, rtol=1e-4, atol=1e-4)


def test_what_is_no_audio_encoder_is_refused(tmp_path):
    with pytest.raises(depthup.UserError, match="encoder"):
        encoder_kind(EncoderConfig(name=str(save_base(tmp_path / "base"))))
    with pytest.raises(depthup.UserError, match="no such directory"):
        encoder_kind(EncoderConfig(name=str(tmp_path / "none")))


def test_another_or_changed_encoder_is_refused(tmp_path):
    directory = save_encoder(tmp_path / "encoder", "whisper")
    model = depthup.SpeechLM.from_recipe(load_recipe(save_recipe(tmp_path, encoder={"name": str(directory)})))
    model.save_pretrained(tmp_path / "checkpoint")
    depthup.SpeechLM.from_pretrained(tmp_path / "checkpoint")
    changed = WhisperModel.from_pretrained(directory)
    with torch.no_grad():
        changed.encoder.layer_norm.weight[2] += 0.1
    changed.save_pretrained(directory)
    with pytest.raises(depthup.UserError, match="speech encoder"):
        depthup.SpeechLM.from_pretrained(tmp_path / "checkpoint")


def test_a_frame_rate_that_stacking_cannot_give_is_refused(tmp_path):
    recipe = load_recipe(save_recipe(tmp_path, encoder={"frame_rate": 10}))
    with pytest.raises(depthup.UserError, match="encoder.frame_rate 10"):
        depthup.SpeechLM.from_recipe(recipe)


def test_every_frame_of_30_s_is_counted_once():
    lengths = torch.tensor([1, 37, 700, 1491, 1495, 1500])
    positions, counts = silence.thinned(lengths, 1500)
    assert counts.sum(1).tolist() == [1500] * 6
    for n, places, times in zip(lengths.tolist(), positions, counts, strict=True):
        kept = places[times > 0]
        assert kept[:n].tolist() == list(range(n)) and bool((times[:n] == 1).all())
        assert bool((kept.diff() > 0).all())
    assert positions.shape[1] == 1508  # as the longest clip needs
    assert silence.thinned(lengths[:3], 1500)[0].shape[1] < 750


def test_silence_that_stands_for_itself_alone_is_all_of_30_s(tmp_path, monkeypatch):
    directory = str(save_encoder(tmp_path / "encoder", "whisper"))
    few = encoder_kind(EncoderConfig(name=directory)).build(load_weights=True)
    all_of_it = encoder_kind(EncoderConfig(name=directory, pad_to_30s=True)).build(load_weights=True)
    extractor = few.kind.feature_extractor()
    features = [few.kind.features(extractor, clip, None, "cpu") for clip in clips(16000, 9000)]
    lengths = torch.tensor([len(clip) for clip in features])
    monkeypatch.setattr(silence, "STRIDE", 1)
    with torch.no_grad():
        ours, counted = few(few.kind.pad(features), lengths)
        theirs, _ = all_of_it(all_of_it.kind.pad(features), lengths)
    # The last of 1,500 frames alone sees where silence ends.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)
    assert counted.tolist() == [50, 28]
