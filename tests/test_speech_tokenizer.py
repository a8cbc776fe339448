"""Speech tokenizers: each part gives what its makers' code gives; what decides the ids is known again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from small_run import save_recordings
from tiny_tokens import CODECS, ENCODERS, save_audio_encoder, save_codec, save_tokenizer
from transformers import AutoFeatureExtractor, AutoModel

from depthup.cli import main
from depthup.errors import UserError
from depthup.speech_tokens import fit
from depthup.speech_tokens.codec import Codec
from depthup.speech_tokens.fit import make_tokenizer
from depthup.speech_tokens.semantic import LayerFrames, nearest
from depthup.speech_tokens.tokenizer import CENTROIDS, SpeechTokenizer

RATE = 16000


def clip(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32) * 0.3


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A directory with recordings, an audio encoder, a codec, and a tokenizer of both."""
    directory = tmp_path_factory.mktemp("made")
    save_tokenizer(directory / "tokenizer", save_recordings(directory / "audio"))
    return directory


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_layer_gives_what_leaves_it(kind, tmp_path):
    name = str(save_audio_encoder(tmp_path, kind))
    samples = clip(30 * RATE if kind == "whisper" else 9000)  # transformers' Whisper hears 30 s only
    theirs = AutoModel.from_pretrained(name)
    theirs = theirs.get_encoder() if kind == "whisper" else theirs
    inputs = AutoFeatureExtractor.from_pretrained(name)(samples, sampling_rate=RATE, return_tensors="pt")
    states = {}
    layers = theirs.layers if kind == "whisper" else theirs.encoder.layers
    for number, layer in enumerate(layers, 1):
        layer.register_forward_hook(lambda module, args, out, number=number: states.update({number: out}))
    with torch.no_grad():
        heard = theirs(next(iter(inputs.values())), output_hidden_states=True)
    for number in (1, 2, 3):
        expected = states[number] if torch.is_tensor(states[number]) else states[number][0]
        torch.testing.assert_close(LayerFrames(name, number)(samples), expected[0], rtol=1e-3, atol=1e-4)
        assert number == 3 or torch.equal(expected, heard.hidden_states[number])
    torch.testing.assert_close(LayerFrames(name)(samples), heard.last_hidden_state[0], rtol=1e-3, atol=1e-4)


def test_a_layer_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="no layer 4; choose from 1 to 3"):
        LayerFrames(str(save_audio_encoder(tmp_path)), 4)


@pytest.mark.parametrize("kind", CODECS)
def test_a_codec_gives_the_codes_that_transformers_gives(kind, tmp_path):
    codec = Codec(str(save_codec(tmp_path, kind)))
    theirs = AutoModel.from_pretrained(tmp_path)
    codec.sampling_rate = RATE  # no resampling, which is not transformers'
    samples = clip(4 * codec.hop)
    inputs = torch.from_numpy(samples)[None, None]
    with torch.no_grad():
        all_of_them = {"bandwidth": 0.6} if kind == "encodec" else {}
        expected = theirs.encode(inputs, **all_of_them).audio_codes.reshape(-1, 4).T
    assert torch.equal(codec(samples), expected)
    assert len(expected.unique()) > 2, "random codebooks that all choose one code would prove nothing"
    few = Codec(str(tmp_path), 2)
    few.sampling_rate = RATE
    assert torch.equal(few(samples), expected[:, :2])


@pytest.mark.parametrize("samples", [0, 1, 320, 321, 5000])
def test_every_sample_of_a_clip_is_in_some_frame(samples, made):
    ids = SpeechTokenizer.from_pretrained(made / "tokenizer")(clip(samples))
    assert ids.shape == (max(1, -(-samples // 320)), 3)
    assert (ids[:, 1:] >= 0).all() and ids[:, 0].max() >= 0 and (ids < [20, 16, 16]).all()


def test_the_nearest_cluster_is_the_nearest():
    frames, centroids = torch.randn(200, 5), torch.randn(30, 5)
    assert torch.equal(nearest(frames, centroids), torch.cdist(frames, centroids).argmin(1))


def test_clusters_fit_as_well_as_plain_k_means_whatever_the_buffer_holds(made, monkeypatch):
    from sklearn.cluster import KMeans

    semantic = LayerFrames(str(made / "audio-encoder"), 2)
    manifest = str(made / "audio" / "manifest.jsonl")
    frames = np.concatenate(list(fit._buffers(semantic, [manifest], 1, 0, fit.DataConfig())))
    assert len(frames) > 200
    total = ((frames - frames.mean(0)) ** 2).sum()
    explained = 1 - KMeans(8, n_init=3, random_state=0).fit(frames).inertia_ / total
    monkeypatch.setattr(fit, "BATCH_FRAMES", 60)
    for buffer in (1 << 17, 100):
        monkeypatch.setattr(fit, "BUFFER_FRAMES", buffer)
        centroids, told = fit.fit_clusters(semantic, [manifest], 8, 1, 0, fit.DataConfig())
        reached = fit._quality(frames, centroids)["explained"]
        assert reached > 0.85 * explained and told["frames"] == len(frames)


def test_no_more_is_heard_than_asked_for(made):
    semantic = LayerFrames(str(made / "audio-encoder"), 2)
    manifest = str(made / "audio" / "manifest.jsonl")
    frames = sum(map(len, fit._buffers(semantic, [manifest], 1.0 / 3600, 0, fit.DataConfig())))
    assert 45 < frames < 80  # a second, and the rest of the clip in which it ends


def test_a_tokenizer_is_kept_whole_and_the_same_command_makes_the_same(made, tmp_path):
    first = SpeechTokenizer.from_pretrained(made / "tokenizer")
    save_tokenizer(made / "again", made / "audio" / "manifest.jsonl")
    again = SpeechTokenizer.from_pretrained(made / "again")
    assert again.hash == first.hash and (again(clip(5000)) == first(clip(5000))).all()
    first.save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).hash == first.hash
    told = json.loads((made / "tokenizer" / "config.json").read_text())
    assert (told["layer"], told["codebook_sizes"], told["frame_rate"]) == (2, [20, 16, 16], 50)


def test_where_encoder_and_codec_stand_does_not_matter_but_what_they_are_does(made, tmp_path):
    tokenizer, moved, other = made / "tokenizer", tmp_path / "moved", tmp_path / "other"
    ids = SpeechTokenizer.from_pretrained(tokenizer)(clip(5000))
    save_audio_encoder(moved)
    assert (SpeechTokenizer.from_pretrained(tokenizer, encoder=str(moved))(clip(5000)) == ids).all()
    save_audio_encoder(other, seed=1)
    with pytest.raises(UserError, match="fitted on an audio encoder with other weights"):
        SpeechTokenizer.from_pretrained(tokenizer, encoder=str(other))(clip(5000))
    save_codec(tmp_path / "codec", "dac", seed=1)
    with pytest.raises(UserError, match="a codec of other weights"):
        SpeechTokenizer.from_pretrained(tokenizer, codec=str(tmp_path / "codec"))(clip(5000))


@pytest.mark.parametrize("key, value", [("layer", 1), ("codec_streams", 1), ("encoder_hash", "0" * 64)])
def test_a_changed_description_is_refused(key, value, made, tmp_path):
    SpeechTokenizer.from_pretrained(made / "tokenizer").save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, key: value}))
    with pytest.raises(UserError, match="not what its config.json was written with"):
        SpeechTokenizer.from_pretrained(tmp_path)


def test_other_or_missing_centroids_are_refused(made, tmp_path):
    SpeechTokenizer.from_pretrained(made / "tokenizer").save_pretrained(tmp_path)
    weights = load_file(tmp_path / CENTROIDS)
    weights["centroids"][3, 2] += 1e-3
    save_file(weights, tmp_path / CENTROIDS)
    with pytest.raises(UserError, match="not what its config.json was written with"):
        SpeechTokenizer.from_pretrained(tmp_path)
    (tmp_path / CENTROIDS).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        SpeechTokenizer.from_pretrained(tmp_path)


def test_a_codec_alone_needs_no_recordings(made, tmp_path, capsys):
    assert main(["tokenizer", "--codec", str(made / "codec"), "--output", str(tmp_path / "out")]) == 0
    assert "16 + 16 + 16 ids, 50 frames a second" in capsys.readouterr().out
    assert SpeechTokenizer.from_pretrained(tmp_path / "out")(clip(3200)).shape == (10, 3)


REFUSED = {
    "another frame rate": (["--codec", "MIMI"], "12.5 frames a second where"),
    "no neural codec": (["--codec", "ENCODER"], "wav2vec2 is no neural codec"),
    "more streams than codebooks": (["--codec", "CODEC", "--codec-streams", "4"], "4 streams of 3 codebooks"),
    "no streams": (["--codec", "CODEC", "--codec-streams", "0"], "0 streams of 3 codebooks"),
    "no hours": (["--hours", "nan"], "--hours positive"),
    "more clusters than frames": (["--clusters", "5000"], "frames of audio for 5000 clusters"),
    "an encoder without weights": (["--encoder", "fbank"], "no weights to begin with"),
    "no such codec": (["--codec", "NOWHERE"], "no such directory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_made_is_refused_in_one_line_and_nothing_is_written(case, made, tmp_path, capsys):
    save_codec(tmp_path / "mimi", "mimi")
    names = {
        "MIMI": tmp_path / "mimi",
        "ENCODER": made / "audio-encoder",
        "CODEC": made / "codec",
        "NOWHERE": tmp_path / "nowhere",
    }
    words = [str(names.get(word, word)) for word in REFUSED[case][0]]
    manifest, out = str(made / "audio" / "manifest.jsonl"), tmp_path / "out"
    command = ["tokenizer", manifest, "--encoder", str(made / "audio-encoder"), "--output", str(out), *words]
    assert main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("depthup:")]
    assert REFUSED[case][1] in line
    assert not out.exists() and not list(tmp_path.glob(".partial*"))


def test_nothing_is_overwritten(made):
    with pytest.raises(UserError, match="nothing is overwritten"):
        make_tokenizer([], made / "tokenizer", codec=str(made / "codec"))
