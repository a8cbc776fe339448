"""Shards of speech tokens: the ids that the tokenizer gives, in a form that Lhotse reads, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet
from small_run import save_recordings
from tiny_tokens import save_audio_encoder, save_tokenizer

from depthup.cli import main
from depthup.config import DataConfig
from depthup.data import load_cuts, read_audio
from depthup.data.shards import make_shards, verify_shards
from depthup.errors import UserError
from depthup.speech_tokens.tokenizer import SpeechTokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A directory with recordings, a tokenizer, and shards of its tokens."""
    directory = tmp_path_factory.mktemp("made")
    save_tokenizer(directory / "tokenizer", save_recordings(directory / "audio"))
    manifest, out = str(directory / "audio" / "manifest.jsonl"), str(directory / "shards")
    tokenizer = str(directory / "tokenizer")
    options = ["--tokenizer", tokenizer, "--shard-clips", "5", "--num-workers", "0"]
    assert main(["data", manifest, "--output", out, *options]) == 0
    return directory


def test_a_shard_holds_what_the_tokenizer_gives_and_no_audio(made):
    tokenizer = SpeechTokenizer.from_pretrained(made / "tokenizer")
    spoken = list(load_cuts(str(made / "audio" / "manifest.jsonl"), DataConfig()))
    kept = list(load_cuts(str(made / "shards"), DataConfig()))
    lhotse = list(CutSet.from_shar(in_dir=made / "shards" / "shards"))
    for audio, ours, theirs in zip(spoken, kept, lhotse, strict=True):
        expected = tokenizer(read_audio(audio, 16000)).astype(np.uint16)
        assert (ours.custom["tokens"].load() == expected).all() and (theirs.load_tokens() == expected).all()
        assert ours.supervisions[0].text == audio.supervisions[0].text and not ours.has_recording
        assert ours.supervisions[0].speaker == audio.supervisions[0].speaker
        assert ours.duration == pytest.approx(audio.duration)
    names = {path.name.partition(".")[0] for path in (made / "shards" / "shards").iterdir()}
    assert names == {"tokens", "cuts"}


def test_neither_processes_nor_interruptions_change_a_byte(made, tmp_path):
    manifest, tokenizer = str(made / "audio" / "manifest.jsonl"), made / "tokenizer"
    make_shards(manifest, tmp_path / "out", shard_clips=5, num_workers=1, tokenizer=tokenizer)
    assert contents(tmp_path / "out") == contents(made / "shards")
    lost = tmp_path / "out" / "shards" / "tokens.000001.tar"
    lost.unlink()
    assert "is missing" in verify_shards(tmp_path / "out")[0]
    make_shards(manifest, tmp_path / "out", shard_clips=5, tokenizer=tokenizer)
    assert contents(tmp_path / "out") == contents(made / "shards")


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_an_id_that_is_none_survives(made, monkeypatch, tmp_path):
    monkeypatch.setattr(
        SpeechTokenizer, "__call__", lambda self, samples, device="cpu": np.array([[3, -1, 0], [65534, 1, 2]])
    )
    make_shards(str(made / "audio" / "manifest.jsonl"), tmp_path / "out", tokenizer=made / "tokenizer")
    cut = next(iter(load_cuts(str(tmp_path / "out"), DataConfig())))
    assert cut.custom["tokens"].load().tolist() == [[3, 65535, 0], [65534, 1, 2]]


def test_a_clip_too_long_for_the_encoder_is_named_and_counted(made, tmp_path):
    tokenizer = SpeechTokenizer.from_pretrained(made / "tokenizer")
    tokenizer.config.longest = 8000
    tokenizer.save_pretrained(tmp_path / "short")
    manifest = make_shards(str(made / "audio" / "manifest.jsonl"), tmp_path / "out", tokenizer=tmp_path / "short")
    (skipped,) = manifest["skipped"].values()
    assert manifest["clips"] == 8 and skipped["clips"] == 4 and "hears 0.5 s at most" in skipped["first"][0]


def test_what_cannot_be_written_is_refused_and_nothing_is_written(made, tmp_path):
    manifest, tokenizer = str(made / "audio" / "manifest.jsonl"), made / "tokenizer"
    with pytest.raises(UserError, match="--sampling-rate 8000"):
        make_shards(manifest, tmp_path / "out", sampling_rate=8000, tokenizer=tokenizer)
    SpeechTokenizer.from_pretrained(tokenizer).save_pretrained(tmp_path / "other")
    told = json.loads((tmp_path / "other" / "config.json").read_text())
    save_audio_encoder(tmp_path / "encoder", seed=1)
    (tmp_path / "other" / "config.json").write_text(json.dumps({**told, "encoder": str(tmp_path / "encoder")}))
    with pytest.raises(UserError, match="audio encoder with other weights"):
        make_shards(manifest, tmp_path / "out", tokenizer=tmp_path / "other")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="holds shards made with other tokenizer"):
        make_shards(manifest, made / "shards", shard_clips=5)


def test_shards_without_their_manifest_are_refused(made):
    with pytest.raises(UserError, match="give the folder above"):
        load_cuts(str(made / "shards" / "shards"), DataConfig())
