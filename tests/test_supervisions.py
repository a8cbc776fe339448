"""What `lhotse prepare` writes, supervisions beside recordings, read as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

from depthup.config import DataConfig
from depthup.data import load_cuts
from depthup.data.audio import read_audio
from depthup.errors import UserError

RATE = 8000


@pytest.fixture
def prepared(tmp_path) -> Path:
    """Two stereo recordings of a second, and three segments in another order."""
    rng = np.random.default_rng(0)
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal((RATE, 2)), RATE, subtype="FLOAT")
    recordings = [Recording.from_file(tmp_path / f"{name}.wav") for name in "ab"]
    segments = [
        SupervisionSegment("b1", "b", 0.5, 0.25, channel=1, text="third", speaker="ann"),
        SupervisionSegment("a1", "a", 0.0, 0.5, channel=0, text="first"),
        SupervisionSegment("a2", "a", 0.5, 0.5, channel=[0, 1], text="second"),
    ]
    RecordingSet.from_recordings(recordings).to_file(tmp_path / "corpus_recordings_train.jsonl.gz")
    SupervisionSet.from_segments(segments).to_file(tmp_path / "corpus_supervisions_train.jsonl.gz")
    return tmp_path / "corpus_supervisions_train.jsonl.gz"


def test_each_segment_is_a_clip_of_its_own_recording_place_and_channel(prepared):
    cuts = list(load_cuts(str(prepared), DataConfig()))
    assert [(cut.id, cut.supervisions[0].text) for cut in cuts] == [("b1", "third"), ("a1", "first"), ("a2", "second")]
    assert cuts[0].supervisions[0].speaker == "ann" and cuts[0].supervisions[0].start == 0
    a, b = (soundfile.read(prepared.parent / f"{name}.wav", dtype="float32")[0] for name in "ab")
    for cut, expected in zip(cuts, [b[4000:6000, 1], a[:4000, 0], a[4000:].mean(1)], strict=True):
        np.testing.assert_allclose(read_audio(cut, RATE), expected, atol=1e-6)


def test_missing_recordings_are_named(prepared):
    beside = prepared.parent / "corpus_recordings_train.jsonl.gz"
    RecordingSet.from_recordings([Recording.from_file(prepared.parent / "a.wav")]).to_file(beside)
    with pytest.raises(UserError, match=r"corpus_supervisions_train.jsonl.gz:1: .*corpus_recordings_train.jsonl.gz"):
        load_cuts(str(prepared), DataConfig())
    beside.unlink()
    with pytest.raises(UserError, match="corpus_recordings_train.jsonl.gz: cannot be opened"):
        load_cuts(str(prepared), DataConfig())
