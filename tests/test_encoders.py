"""Every speech encoder: padding changes nothing, frozen stays frozen, and the processor counts its frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import save_base, save_recipe
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

import depthup
from depthup.config import EncoderConfig
from depthup.model.encoders import encoder_kind
from depthup.recipe import load_recipe

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CONVS = {"conv_dim": (8, 8), "conv_stride": (160, 2), "conv_kernel": (200, 3), "num_conv_pos_embedding_groups": 2}
WAVE = {**SMALL, **CONVS, "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8}
WHISPER = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
KINDS = {
    "whisper": lambda: WhisperModel(WhisperConfig(**WHISPER, decoder_attention_heads=2, num_mel_bins=80)),
    "wav2vec2 group norm": lambda: Wav2Vec2Model(Wav2Vec2Config(**WAVE, feat_extract_norm="group")),
    "wav2vec2 layer norm": lambda: Wav2Vec2Model(Wav2Vec2Config(**WAVE, feat_extract_norm="layer")),
    "wav2vec2 adapter": lambda: Wav2Vec2Model(
        Wav2Vec2Config(**WAVE, feat_extract_norm="layer", add_adapter=True, num_adapter_layers=2, adapter_stride=2)
    ),
    "wav2vec2-conformer": lambda: Wav2Vec2ConformerModel(
        Wav2Vec2ConformerConfig(**WAVE, feat_extract_norm="layer", conv_depthwise_kernel_size=3)
    ),
    "data2vec-audio": lambda: Data2VecAudioModel(
        Data2VecAudioConfig(**{**WAVE, "num_conv_pos_embeddings": 2}, conv_pos_kernel_size=3)
    ),
    "hubert": lambda: HubertModel(HubertConfig(**WAVE, feat_extract_norm="layer")),
    "wavlm": lambda: WavLMModel(WavLMConfig(**WAVE, feat_extract_norm="layer")),
}


def save_encoder(directory: Path, kind: str) -> Path:
    torch.manual_seed(0)
    KINDS[kind]().save_pretrained(directory)
    mel = kind == "whisper"
    (WhisperFeatureExtractor() if mel else Wav2Vec2FeatureExtractor(do_normalize=True)).save_pretrained(directory)
    return directory


def clips(*lengths: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).standard_normal(n).astype(np.float32) * 0.1 for n in lengths]


def encoder_of(kind: str, tmp_path: Path) -> dict[str, object]:
    """A recipe's section `encoder`."""
    if kind == "fbank":
        return {"name": "fbank"}
    name = str(save_encoder(tmp_path / "encoder", kind.removesuffix(", padded")))
    return {"name": name, "pad_to_30s": kind.endswith("padded")}


@pytest.mark.parametrize("kind", ["fbank", "whisper, padded", *KINDS])
def test_a_clip_is_heard_alike_alone_and_in_a_batch(kind, tmp_path):
    recipe = load_recipe(save_recipe(tmp_path, encoder=encoder_of(kind, tmp_path)))
    model = depthup.SpeechLM.from_recipe(recipe).eval()
    processor = depthup.SpeechProcessor.build(model.config)
    short, long = clips(6900, 16500)  # an odd number of frames, whose last convolution reaches into the padding
    with torch.no_grad():
        alone = model(**processor("<|audio|> hm", [short])).logits[0]
        batch = processor(["<|audio|> hm", "<|audio|> hm"], [short, long])
        together = model(**batch).logits[0]
    torch.testing.assert_close(together[batch["attention_mask"][0].bool()], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["fbank", *KINDS])
@pytest.mark.parametrize("samples", [20, 800, 4001, 16000])
def test_any_length_gives_as_many_frames_as_placeholders(kind, samples, tmp_path):
    model = depthup.SpeechLM.from_recipe(load_recipe(save_recipe(tmp_path, encoder=encoder_of(kind, tmp_path))))
    processor = depthup.SpeechProcessor.build(model.config)
    batch = processor("<|audio|>", clips(samples))
    speech = model.embed_speech(batch["input_features"], batch["input_lengths"])
    count = int((batch["input_ids"] == model.config.audio_token_id).sum())
    assert count == int(speech.lengths[0]) == speech.embeddings.shape[1] >= 1


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
    with pytest.raises(depthup.UserError, match="cannot load"):
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
