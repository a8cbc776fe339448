"""Planning reads durations and nothing else; workers read their own clips and no others, wherever shards are."""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording
from torch.utils.data import DataLoader

from depthup.config import AugmentConfig, DataConfig
from depthup.data import BatchStream, load_cuts, shar, shard_index
from depthup.data.bucketing import Bucketing
from depthup.data.cuts import ManifestCuts
from depthup.data.mixing import Sources
from depthup.data.shards import make_shards, verify_shards
from depthup.errors import UserError

RATE = 8000
CLIPS = 24


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(shard_index, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    """24 clips of 0.1 to 0.33 s whose text is their number."""
    rows = []
    for number in range(CLIPS):
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, 800 + 80 * number)
        soundfile.write(tmp_path / f"{number}.wav", samples, RATE)
        rows.append(json.dumps({"audio": f"{number}.wav", "text": str(number)}) + "\n")
    (tmp_path / "clips.jsonl").write_text("".join(rows))
    return str(tmp_path / "clips.jsonl")


@pytest.fixture
def shards(tmp_path: Path, manifest: str) -> Path:
    make_shards(manifest, tmp_path / "out", shard_clips=5, sampling_rate=RATE)
    return tmp_path / "out"


class Processor:
    """Stands for the real one: the numbers in the texts, and the audio."""

    sampling_rate = RATE
    longest_seconds = float("inf")

    def seconds(self, clip):
        return len(clip) / RATE

    def training_batch(self, audio, texts, feature_transform, prompts):
        sums = [float(np.abs(samples).sum()) for samples in audio]
        return {"texts": torch.tensor([int(text) for text in texts]), "sums": torch.tensor(sums)}


def stream_of(source: object, rank: int = 0, world_size: int = 1, **options) -> BatchStream:
    data = DataConfig(**{"batch_seconds": 0.7, "num_buckets": 2, "shuffle_buffer": 10, "min_duration": 0.01, **options})
    return BatchStream(load_cuts(str(source), data), Processor(), data, AugmentConfig(), 3, rank, world_size)


def texts_of(batches) -> list[list[int]]:
    return [batch["texts"].tolist() for batch in batches]


def epoch_of(stream: BatchStream, epoch: int = 0) -> list[list[int]]:
    return [clips.tolist() for clips in stream.bucketing.epoch(stream.seed, epoch)]


# Who reads what


class Opened(io.BytesIO):
    """A file that notes which bytes of it are read, and how often it is opened."""

    def __init__(self, path: Path, log: list) -> None:
        super().__init__(path.read_bytes())
        self.path, self.log = path, log

    def read(self, size=-1):
        start = self.tell()
        content = super().read(size)
        self.log.append((self.path.name, start, len(content)))
        return content


@pytest.fixture
def far_away(tmp_path, monkeypatch) -> list:
    """What is read of files below https://host/, which stands for the temporary directory: name, offset, bytes."""
    reads: list = []
    near = shard_index.open_best

    def open_best(path, mode="r"):
        if not str(path).startswith("https://host/"):
            return near(path, mode)
        local = tmp_path / str(path).removeprefix("https://host/")
        return Opened(local, reads) if mode == "rb" else near(local, mode)

    for module in (shard_index, shar):
        monkeypatch.setattr(module, "open_best", open_best)
    return reads


def test_a_worker_reads_the_bytes_of_its_own_clips_and_no_others(shards, far_away):
    stream = stream_of("https://host/out", rank=1, world_size=3)
    stream.skip(2)
    batches = iter(stream)
    far_away.clear()
    mine = sum(texts_of(islice(batches, 4)), [])
    rows = np.load(shards / "index.npy")[mine]
    own = Counter((f"recording.{row['shard']:06d}.tar", int(row["offset"]), int(row["bytes"])) for row in rows)
    assert Counter(read for read in far_away if read[0].endswith(".tar")) == own
    assert sum(size for _, _, size in own) < 0.7 * sum(tar.stat().st_size for tar in shards.glob("shards/*.tar"))


def test_planning_needs_neither_audio_nor_cuts(shards):
    stream = stream_of(shards)
    shutil.rmtree(shards / "shards")
    assert np.allclose(stream.clips.seconds(np.arange(CLIPS)), 0.1 + 0.01 * np.arange(CLIPS))
    for epoch in range(3):
        assert sorted(sum(epoch_of(stream, epoch), [])) == list(range(CLIPS))


def test_no_more_cuts_are_held_than_a_batch_has(shards):
    batches = iter(stream_of(shards, shuffle_buffer=CLIPS))
    for _ in range(3):
        batch = next(batches)
        gc.collect()
        # The last clip's stays with whoever reads the next.
        assert sum(isinstance(held, MonoCut) for held in gc.get_objects()) <= len(batch["texts"]) + 1


def test_a_manifest_is_read_once(manifest, monkeypatch):
    passes = []
    read = ManifestCuts.__iter__
    stream = stream_of(manifest)
    monkeypatch.setattr(ManifestCuts, "__iter__", lambda self: passes.append(1) or read(self))
    seen = Counter(sum(texts_of(islice(stream, 3 * len(epoch_of(stream)))), []))
    assert set(seen) == set(range(CLIPS)) and not passes


# The same wherever the clips are


def test_directory_url_and_command_give_the_same_batches_to_all_workers(shards, far_away):
    def batches(source: str, workers: int = 0) -> list[dict]:
        return list(islice(DataLoader(stream_of(source), batch_size=None, num_workers=workers), 15))

    expected = batches(str(shards))
    for source in ("https://host/out", f"pipe:cat {shards}/{{}}"):
        for workers in (0, 2):
            for one, other in zip(expected, batches(source, workers), strict=True):
                assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_index_of_remote_shards_is_copied_once(shards, far_away, cache):
    for _ in range(2):
        stream_of("https://host/out")
    assert sum(name == "index.npy" and size > 0 for name, _, size in far_away) == 1
    (kept,) = cache.iterdir()
    assert kept.read_bytes() == (shards / "index.npy").read_bytes()
    kept.unlink()
    (shards / "index.npy").unlink()
    with pytest.raises(UserError, match="https://host/out/index.npy: cannot read the index of the shards"):
        stream_of("https://host/out")


def foreign(manifest: str, folder: Path, names=str) -> Path:
    """A Shar directory as Lhotse itself writes it."""
    cuts = []
    for number, cut in enumerate(CutSet.from_cuts(load_cuts(manifest, DataConfig()))):
        cut.recording = Recording.from_file(Path(manifest).with_name(f"{number}.wav"))
        cut.id, cut.channel = names(number), 0
        cuts.append(cut)
    folder.mkdir()
    CutSet.from_cuts(cuts).to_shar(folder, fields={"recording": "wav"}, shard_size=5)
    return folder


def test_shards_of_others_get_an_index_once(tmp_path, manifest, monkeypatch, cache):
    folder = foreign(manifest, tmp_path / "theirs", names=lambda n: f"{n}/{'long name ' * 15}")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert Counter(sum(texts_of(islice(stream_of(folder), 9)), [])).keys() <= set(range(CLIPS))
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    again = stream_of(folder)
    with monkeypatch.context() as patch:
        patch.setattr(shar, "index_shard", lambda *paths: pytest.fail("indexed again"))
        assert epoch_of(stream_of(folder)) == epoch_of(again)
    os.utime(folder / "cuts.000001.jsonl.gz", (1, 1))
    stream_of(folder)
    assert len(list(cache.iterdir())) == 2


def test_audio_of_shards_of_others_is_that_of_the_clip(tmp_path, manifest):
    folder = foreign(manifest, tmp_path / "theirs")
    expected = {text: total for batch in islice(stream_of(manifest), 12) for text, total in pairs(batch)}
    found = {text: total for batch in islice(stream_of(folder), 12) for text, total in pairs(batch)}
    assert len(found) > CLIPS / 2 and all(
        found[text] == pytest.approx(expected.get(text, found[text])) for text in found
    )


def pairs(batch: dict) -> list[tuple[int, float]]:
    return list(zip(batch["texts"].tolist(), batch["sums"].tolist(), strict=True))


# Damage


def test_a_truncated_shard_of_others_is_named_and_left_out_every_time(tmp_path, manifest, caplog, cache):
    folder = foreign(manifest, tmp_path / "theirs")
    tar = folder / "recording.000002.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    for _ in range(2):
        caplog.clear()
        stream = stream_of(folder)
        assert sorted(set(sum(texts_of(islice(stream, 12)), []))) <= sorted(set(range(CLIPS)) - set(range(10, 15)))
        (line,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
        assert "recording.000002.tar" in line and "\n" not in line
    assert not list(cache.iterdir())
    with pytest.raises(UserError, match="recording.000002.tar: the shard is damaged"):
        stream_of(folder, strict=True)


def test_shards_that_changed_places_are_noticed(shards, caplog):
    one, other = (shards / "shards" / f"recording.{n:06d}.tar" for n in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    texts = set(sum(texts_of(islice(stream_of(shards), 20)), []))
    assert texts == set(range(10, CLIPS))
    assert sum("the shard is damaged" in record.getMessage() for record in caplog.records) == 2


def test_a_missing_index_is_named_and_comes_back(shards, manifest):
    expected = {path: path.read_bytes() for path in sorted(shards.rglob("*")) if path.is_file()}
    (shards / "index.npy").unlink()
    assert ["index.npy: is missing" in line for line in verify_shards(shards)] == [True]
    with pytest.raises(UserError, match="index.npy: cannot read the index of the shards"):
        stream_of(shards)
    make_shards(manifest, shards, shard_clips=5, sampling_rate=RATE)
    assert expected == {path: path.read_bytes() for path in sorted(shards.rglob("*")) if path.is_file()}


# Batches


class Durations:
    """A source of clips with these durations, in shards of a thousand."""

    def __init__(self, seconds: np.ndarray) -> None:
        self.seconds = seconds.astype(np.float32)
        self.shard_sizes = np.bincount(np.arange(len(seconds)) // 1000)

    def clips(self):
        return self

    def cut(self, number):
        raise AssertionError("a clip was asked for")


def plan_of(*seconds: np.ndarray, **options) -> Bucketing:
    data = DataConfig(**{"train": ["a"] * len(seconds), **options})
    return Bucketing(Sources(tuple(map(Durations, seconds))), data, data.weights)


READ_SPEECH = np.random.default_rng(0).normal(13.0, 3.0, 30_000).clip(1, 20)


@pytest.mark.parametrize("options", [{}, {"shuffle_buffer": 50}, {"num_buckets": 1}, {"max_batch_clips": 3}])
def test_every_clip_once_and_within_budget(options):
    plan = plan_of(READ_SPEECH[:7_000], READ_SPEECH[7_000:9_000], batch_seconds=100, **options)
    for epoch in range(2):
        batches = list(plan.epoch(5, epoch))
        assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(9_000))
        for clips in batches:
            assert len(clips) * READ_SPEECH[clips].max() <= 100 * (1 + 1e-6)
    assert [b.tolist() for b in plan.epoch(5, 0)] != [b.tolist() for b in batches]
    assert [b.tolist() for b in plan.epoch(5, 1)] == [b.tolist() for b in batches]


def test_clips_of_a_small_corpus_do_not_come_together_in_every_epoch():
    plan = plan_of(READ_SPEECH[:200], batch_seconds=240)
    first, second = ({frozenset(clips.tolist()) for clips in plan.epoch(0, epoch)} for epoch in range(2))
    assert len(first) < 16 and len(first & second) <= 1


def test_batches_are_full_and_little_of_them_is_padding():
    batches = list(plan_of(READ_SPEECH, batch_seconds=240).epoch(0, 0))
    audio = np.array([READ_SPEECH[clips].sum() for clips in batches])
    padded = np.array([len(clips) * READ_SPEECH[clips].max() for clips in batches])
    assert audio.sum() > 0.95 * padded.sum() and padded.mean() > 0.97 * 240
    # Ranks that train side by side wait little for each other.
    steps = padded[: len(padded) // 8 * 8].reshape(-1, 8)
    assert steps.mean() > 0.97 * steps.max(axis=1).mean()
    # Clips that stand side by side in a shard do not come together.
    assert np.median([np.ptp(clips) for clips in batches]) > 10_000


def test_mixed_sources_are_drawn_anew_until_all_are_through():
    plan = plan_of(READ_SPEECH[:500], READ_SPEECH[500:9_000], weights=[3.0, 1.0], batch_seconds=100)
    numbers = np.concatenate(list(plan.epoch(1, 0)))
    counts = np.bincount(numbers, minlength=9_000)
    assert (counts[500:] == 1).all() and np.ptp(counts[:500]) <= 1
    assert 2.8 < counts[:500].sum() / counts[500:].sum() < 3.2
