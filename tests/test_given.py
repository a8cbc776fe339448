"""Recordings passed in Python train and measure as the same ones in a manifest do."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from small_run import save_recipe, save_recordings

from depthup import UserError, api, evaluate, load, train
from depthup.config import DataConfig
from depthup.data import load_cuts, read_audio
from depthup.data.given import is_given, name_given
from depthup.data.waveform import waveform


def rows_of(manifest: Path) -> list[dict]:
    """Those of a manifest; of every second the samples instead of the path."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["audio"] = str(manifest.parent / row["audio"])
        if number % 2:
            array, rate = soundfile.read(row["audio"], dtype="float32")
            row["audio"] = {"array": array, "sampling_rate": rate, "path": None}
    return rows


def test_a_list_of_dicts_trains_as_its_manifest(tmp_path):
    recipe = save_recipe(tmp_path)
    rows = rows_of(tmp_path / "audio" / "manifest.jsonl")
    short = ["--train.max_steps=2", "--train.warmup_steps=1"]
    named = train(recipe, [*short, f"--output_dir={tmp_path / 'named'}"])
    given = train(recipe, [*short, f"--output_dir={tmp_path / 'given'}"], train_dataset=rows)
    first, second = (load_file(run / "model.safetensors") for run in (named, given))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    again = [*short, f"--output_dir={tmp_path / 'given'}"]
    assert train(recipe, again, train_dataset=rows_of(tmp_path / "audio" / "manifest.jsonl")) == given
    with pytest.raises(UserError, match="another data.train"):
        train(recipe, again, train_dataset=rows[:-1])
    model, processor = load(given)
    source = str(tmp_path / "audio" / "manifest.jsonl")
    by_name, by_rows = (next(iter(evaluate(model, processor, asr, limit=3).asr.values())) for asr in (source, rows))
    assert (by_name.wer, by_name.clips) == (by_rows.wer, by_rows.clips)


def test_a_dataset_s_clips_are_those_of_its_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = rows_of(save_recordings(tmp_path))[::2]
    dataset = datasets.Dataset.from_list([{k: row[k] for k in ("audio", "text", "speaker")} for row in rows])
    cuts = list(load_cuts(name_given(dataset), DataConfig()))
    for cut, row in zip(cuts, rows, strict=True):
        assert (cut.supervisions[0].text, cut.supervisions[0].speaker) == (row["text"], row["speaker"])
        assert np.array_equal(read_audio(cut, 8000), soundfile.read(row["audio"], dtype="float32")[0])
    assert is_given(dataset) and is_given(rows) and not is_given("a.jsonl") and not is_given(["a.jsonl", "b.jsonl"])


def test_what_is_no_recording_is_refused_in_one_line():
    for audio, line in ((np.zeros(8), "ndarray"), (None, "NoneType")):
        with pytest.raises(UserError, match=f"0: `audio` must be a path or a dict .*{line}"):
            list(load_cuts(name_given([{"audio": audio, "text": "x"}]), DataConfig()))
    second, whole = np.zeros(8000, np.float32), 16000
    odd = {
        "an array of shape .2, 8000.": {"array": np.stack([second, second]), "sampling_rate": whole},
        "an array of shape .0,.": {"array": [], "sampling_rate": whole},
        "NaN or infinite": {"array": np.full(9, np.nan, np.float32), "sampling_rate": whole},
        "sampling_rate must be a whole number of Hz, not '16k'": {"array": second, "sampling_rate": "16k"},
        "sampling_rate must be a whole number of Hz, not 0": {"array": second, "sampling_rate": 0},
    }
    for says, audio in odd.items():
        with pytest.raises(UserError, match=f":0: audio: .*{says}"):
            list(load_cuts(name_given([{"audio": audio, "text": "x"}]), DataConfig()))
    with pytest.raises(UserError, match="http://a b: cannot be fetched"):
        waveform("http://a b", 16000)
    with pytest.raises(UserError, match="pass them again"):
        load_cuts("given:nobody", DataConfig())


def test_whole_numbers_are_samples_of_their_own_scale():
    loud = (np.sin(np.arange(8000)) * 20000).astype(np.int16)
    rows = [{"audio": {"array": loud, "sampling_rate": 16000}, "text": "x"}]
    (cut,) = load_cuts(name_given(rows), DataConfig())
    assert np.array_equal(read_audio(cut, 16000), (loud / 32768).astype(np.float32))
    rows[0]["audio"]["sampling_rate"] = 8000  # the same bytes are another recording
    (other,) = load_cuts(name_given(rows), DataConfig())
    assert other.duration == 2 * cut.duration


def test_rooms_are_calls():
    assert inspect.signature(train) == inspect.signature(api.train)
    assert inspect.signature(evaluate) == inspect.signature(api.evaluate)
    from depthup.train.trainer import SpeechTrainer

    assert SpeechTrainer.__module__ == "depthup.train.trainer"
