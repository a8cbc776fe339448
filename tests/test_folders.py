"""Folders as people have them: every clip with its own text, and nothing left out in silence."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from depthup.config import DataConfig
from depthup.data import load_cuts
from depthup.data.folders import LAYOUTS, find_layout
from depthup.errors import UserError


def record(path: Path, seconds: float = 0.3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(round(16000 * seconds)) / 20), 16000)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def kaldi(folder: Path) -> None:
    record(folder / "wav/talk.wav", 2.0)
    write(folder / "wav.scp", "talk wav/talk.wav", "piped sph2pipe x.sph |")
    write(folder / "segments", "talk-1 talk 0.0 0.5", "talk-2 talk 0.5 1.25", "piped-1 piped 0 1", "gone-1 gone 0 1")
    write(folder / "text", "talk-1 one", "talk-2 two three", "piped-1 four", "gone-1 five")
    write(folder / "utt2spk", "talk-1 anna", "talk-2 ben", "piped-1 anna", "gone-1 ben")


def librispeech(folder: Path) -> None:
    for n, speaker in enumerate(("84", "174")):
        for number in range(2):
            record(folder / f"dev/{speaker}/7/{speaker}-7-000{number}.flac", 0.3 + 0.1 * (2 * n + number))
    write(folder / "dev/84/7/84-7.trans.txt", "84-7-0000 ONE", "84-7-0001 TWO THREE", "84-7-0002 LOST")
    write(folder / "dev/174/7/174-7.trans.txt", "174-7-0000 FOUR")


def common_voice(folder: Path) -> None:
    record(folder / "clips/a.mp3.wav")
    record(folder / "clips/b.wav")
    header = "client_id\tpath\tsentence\tage\tlocale"
    rows = ['s1\ta.mp3.wav\tSay "one".\tteens\ten', "s2\tb.wav\tTwo\t\ten", "s3\tgone.wav\tThree\t\ten"]
    write(folder / "train.tsv", header, *rows)


def ljspeech(folder: Path) -> None:
    for name in ("LJ1", "LJ2", "LJ4"):
        record(folder / f"wavs/{name}.wav")
    write(folder / "metadata.csv", "LJ1|No. 1|number one", "LJ2|two|", "LJ3|three|three")


def beside(folder: Path) -> None:
    for name in ("a/one", "a/two", "b/three"):
        record(folder / f"{name}.wav")
    write(folder / "a/one.txt", "said one")
    write(folder / "b/three.txt", "")


MADE = {
    "kaldi": (kaldi, [("one", "anna", 0.5), ("two three", "ben", 0.75)], 2),
    "librispeech": (librispeech, [("FOUR", "174", 0.5), ("ONE", "84", 0.3), ("TWO THREE", "84", 0.4)], 2),
    "common_voice": (common_voice, [('Say "one".', "s1", 0.3), ("Two", "s2", 0.3)], 1),
    "ljspeech": (ljspeech, [("number one", None, 0.3), ("two", None, 0.3)], 2),
    "beside": (beside, [("said one", None, 0.3)], 2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_s_clips_have_their_own_texts_and_what_is_none_is_told(name, tmp_path, caplog):
    make, expected, left_out = MADE[name]
    make(tmp_path)
    with caplog.at_level(logging.WARNING, "depthup"):
        cuts = list(load_cuts(str(tmp_path), DataConfig()))
    found = [(c.supervisions[0].text, c.supervisions[0].speaker, round(c.duration, 2)) for c in cuts]
    assert sorted(found, key=str) == sorted(expected, key=str)
    layout = find_layout(tmp_path)
    assert len(layout.left_out) == left_out and f"left out {left_out}" in caplog.text
    assert all("(" in line for line in layout.left_out)


def test_kaldi_s_paths_may_be_relative_to_where_its_recipe_runs(tmp_path, monkeypatch):
    record(tmp_path / "corpus/WAVE/one.wav")
    write(tmp_path / "corpus/train/wav.scp", "one WAVE/one.wav")
    write(tmp_path / "corpus/train/text", "one said")
    (cut,) = load_cuts(str(tmp_path / "corpus/train"), DataConfig())
    assert cut.recording.sources[0].source == str(tmp_path / "corpus/WAVE/one.wav")
    (tmp_path / "corpus/train").rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "corpus")
    (cut,) = load_cuts(str(tmp_path / "elsewhere"), DataConfig())
    assert cut.supervisions[0].text == "said"


def test_common_voice_with_several_tables_asks_which(tmp_path):
    common_voice(tmp_path)
    write(tmp_path / "test.tsv", "client_id\tpath\tsentence", "s9\tb.wav\tNine")
    with pytest.raises(UserError, match="several tables.*train.tsv"):
        load_cuts(str(tmp_path), DataConfig())
    (cut,) = load_cuts(str(tmp_path / "test.tsv"), DataConfig())
    assert cut.supervisions[0].text == "Nine"


def test_other_folders_and_tables_stay_what_they_were(tmp_path):
    record(tmp_path / "a.wav")
    assert find_layout(tmp_path) is None
    write(tmp_path / "rows.tsv", "audio\ttext", "a.wav\thello")
    assert find_layout(tmp_path / "rows.tsv") is None
    assert [c.supervisions[0].text for c in load_cuts(str(tmp_path / "rows.tsv"), DataConfig())] == ["hello"]
