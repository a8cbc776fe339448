"""Cuts in, batches out: every source, every mistake, and batches that can be counted on."""

import json
import logging
import warnings
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from torch.utils.data import DataLoader

import depthup.data.batches
from depthup.config import AugmentConfig, DataConfig
from depthup.data import BadAudio, BatchStream, load_cuts, read_audio
from depthup.errors import UserError

RATE = 16000


def sine(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_manifest(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def digits(tmp_path: Path) -> str:
    """A manifest of 40 clips of 0.5 to 2.45 s whose text is their number."""
    rows = []
    for number in range(40):
        seconds = 0.5 + 0.05 * number
        soundfile.write(tmp_path / f"{number}.wav", sine(seconds, RATE, 200 + 10 * number), RATE)
        rows.append({"audio": f"{number}.wav", "text": str(number), "duration": seconds, "speaker": f"s{number % 3}"})
    return write_manifest(tmp_path / "digits.jsonl", rows)


class Processor:
    """Stands for the real one: texts that are numbers, and the audio itself."""

    sampling_rate = RATE
    longest_seconds = float("inf")

    def seconds(self, clip):
        return len(clip) / RATE

    def training_batch(self, audio, texts, feature_transform, prompts):
        spectra = [feature_transform(np.abs(np.fft.rfft(clip, 4096))[:2000].reshape(100, 20)) for clip in audio]
        return {
            "texts": torch.tensor([int(text) for text in texts]),
            "lengths": torch.tensor([len(clip) for clip in audio]),
            "sums": torch.tensor([float(np.abs(clip).sum()) for clip in audio]),
            "spectra": torch.tensor(np.stack(spectra)),
        }


def stream_of(source: str, augment: AugmentConfig | None = None, **options) -> BatchStream:
    place = {name: options.pop(name) for name in ("rank", "world_size") if name in options}
    data = DataConfig(**{"batch_seconds": 6.0, "num_buckets": 4, "shuffle_buffer": 30, **options})
    return BatchStream(load_cuts(source, data), Processor(), data, augment or AugmentConfig(), seed=7, **place)


def texts_of(batches) -> list[list[int]]:
    return [batch["texts"].tolist() for batch in batches]


def epochs_of(stream: BatchStream) -> list[list[list[int]]]:
    """The texts of the first two epochs of 40 clips, batch by batch."""
    epochs, batches = [[], []], iter(stream)
    for epoch in epochs:
        while sum(map(len, epoch)) < 40:
            epoch.append(next(batches)["texts"].tolist())
    return epochs


def same(batch: dict, other: dict) -> bool:
    return batch.keys() == other.keys() and all(torch.equal(batch[key], other[key]) for key in batch)


# Reading audio


def test_sample_rate_and_channels_do_not_matter(tmp_path):
    loud = sine(1.0, 8000)
    soundfile.write(tmp_path / "stereo8.wav", np.stack([1.5 * loud, 0.5 * loud], axis=1), 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "mono16.wav", sine(1.0, RATE), RATE, subtype="FLOAT")
    rows = [{"audio": name, "text": "a"} for name in ("stereo8.wav", "mono16.wav")]
    narrow, wide = (
        read_audio(cut, RATE) for cut in load_cuts(write_manifest(tmp_path / "m.jsonl", rows), DataConfig())
    )
    assert narrow.dtype == wide.dtype == np.float32 and narrow.shape == wide.shape == (RATE,)
    # Resampling rings at the ends.
    assert np.abs(narrow - wide)[400:-400].max() < 1e-3


def test_start_and_duration_choose_the_span(tmp_path):
    ramp = np.linspace(-0.9, 0.9, 2 * RATE, dtype=np.float32)
    soundfile.write(tmp_path / "ramp.wav", ramp, RATE, subtype="FLOAT")
    rows = [
        {"audio": "ramp.wav", "text": "a", "start": 0.5, "duration": 0.25},
        {"audio": "ramp.wav", "text": "b", "start": 1.5},
    ]
    middle, end = load_cuts(write_manifest(tmp_path / "m.jsonl", rows), DataConfig())
    assert np.array_equal(read_audio(middle, RATE), ramp[8000:12000])
    assert end.duration == 0.5 and np.array_equal(read_audio(end, RATE), ramp[24000:])


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (lambda path: path.write_text("not audio"), {}, "cannot be read as audio"),
        (lambda path: soundfile.write(path, np.zeros(0), RATE), {}, "has no samples"),
        (lambda path: soundfile.write(path, np.full(RATE, np.nan), RATE, subtype="FLOAT"), {}, "NaN or infinite"),
        (lambda path: soundfile.write(path, np.full(RATE, np.inf), RATE, subtype="FLOAT"), {}, "NaN or infinite"),
        (lambda path: soundfile.write(path, sine(1, RATE), RATE), {"duration": 0}, "zero duration"),
        (lambda path: soundfile.write(path, sine(1, RATE), RATE), {"duration": 2}, "1.00 s of audio where 2.00 s"),
        (lambda path: soundfile.write(path, sine(1, RATE), RATE), {"start": 5, "duration": 2}, "from second 5.00"),
        (lambda path: None, {"duration": 1}, "no such audio file"),
    ],
)
def test_bad_audio_is_named_in_one_line(tmp_path, make, fields, message):
    make(tmp_path / "clip.wav")
    soundfile.write(tmp_path / "good.wav", sine(1, RATE), RATE)
    rows = [{"audio": "good.wav", "text": "a"}, {"audio": "clip.wav", "text": "a", **fields}]
    _, cut = load_cuts(write_manifest(tmp_path / "m.jsonl", rows), DataConfig())
    with pytest.raises(BadAudio) as error:
        read_audio(cut, RATE)
    assert str(tmp_path / "clip.wav") in str(error.value) and message in str(error.value)
    assert "\n" not in str(error.value)


# Sources


def test_manifest_is_read_lazily_and_again(tmp_path, digits):
    cuts = load_cuts(digits, DataConfig())
    assert cuts.is_lazy
    assert [cut.supervisions[0].text for cut in cuts] == [cut.supervisions[0].text for cut in cuts]
    with open(digits, "a") as manifest:
        manifest.write("broken\n")
    # Only what is asked for is read, so the broken last line does no harm yet.
    assert len(list(islice(cuts, 40))) == 40
    with pytest.raises(UserError, match="digits.jsonl:41: not valid JSON"):
        list(cuts)


def test_fields_of_a_line_reach_the_supervision(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(1, RATE), RATE)
    row = {"file": "a.wav", "says": "hi", "speaker": "ann", "language": "en", "accent": "scots", "take": 2}
    source = write_manifest(tmp_path / "m.jsonl", [row])
    (cut,) = load_cuts(source, DataConfig(audio_field="file", text_field="says"))
    (supervision,) = cut.supervisions
    assert (supervision.text, supervision.speaker, supervision.language) == ("hi", "ann", "en")
    assert supervision.custom == {"accent": "scots", "take": 2}


def lhotse_cuts(digits: str, per_cut: int = 1) -> CutSet:
    cuts = []
    for number in range(6):
        recording = Recording.from_file(Path(digits).with_name(f"{number}.wav"))
        segments = [SupervisionSegment(f"{number}-{i}", recording.id, 0, 0.5, text=str(number)) for i in range(per_cut)]
        cuts.append(
            MonoCut(f"cut{number}", start=0.1, duration=0.3, channel=0, recording=recording, supervisions=segments)
        )
    return CutSet.from_cuts(cuts)


@pytest.mark.parametrize("form", ["cuts.jsonl", "cuts.jsonl.gz", "shar"])
def test_lhotse_manifest_and_shar(tmp_path, digits, form, monkeypatch):
    monkeypatch.setattr("depthup.data.shard_index.CACHE", tmp_path / "cache")
    target = tmp_path / form
    if form == "shar":
        target.mkdir()
        lhotse_cuts(digits).to_shar(target, fields={"recording": "wav"}, shard_size=4)
    else:
        lhotse_cuts(digits).to_file(target)
    cuts = load_cuts(str(target), DataConfig())
    assert cuts.is_lazy and [cut.supervisions[0].text for cut in cuts] == list("012345")
    for number, cut in enumerate(cuts):
        clip = soundfile.read(tmp_path / f"{number}.wav", dtype="float32")[0][1600:6400]
        assert np.abs(read_audio(cut, RATE) - clip).max() < 1e-4


def test_stereo_lhotse_cut_takes_its_own_channel_or_the_mean(tmp_path):
    left, right = sine(1, 8000, 300), sine(1, 8000, 700)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    both = Recording.from_file(tmp_path / "two.wav").to_cut()
    assert np.allclose(read_audio(both, 8000), (left + right) / 2, atol=1e-6)
    assert np.allclose(read_audio(both.to_mono()[1], 8000), right, atol=1e-6)


def test_lhotse_itself_reads_and_writes_cuts_made_here(tmp_path):
    left, right = sine(1, 8000, 300), sine(1, 8000, 700)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    rows = [{}, {"start": 0.25, "duration": 0.5}, {"channel": "right"}]
    manifest = write_manifest(tmp_path / "m.jsonl", [{"audio": "two.wav", "text": "a", **row} for row in rows])
    cuts = load_cuts(manifest, DataConfig())
    expected = [read_audio(cut, 16000) for cut in cuts]
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": "wav"})
    cuts.to_file(tmp_path / "cuts.jsonl")
    for found in (cuts, CutSet.from_shar(in_dir=str(tmp_path / "shar"))):
        for cut, samples in zip(found, expected, strict=True):
            assert np.abs(cut.load_audio()[0] - samples).max() < 1e-3
    for written in ("shar", "cuts.jsonl"):
        for cut, samples in zip(load_cuts(str(tmp_path / written), DataConfig()), expected, strict=True):
            assert np.abs(read_audio(cut, 16000) - samples).max() < 1e-3


def test_hugging_face_directories(tmp_path, digits, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {
        "sound": [{"bytes": (tmp_path / f"{n}.wav").read_bytes(), "path": None} for n in range(3)],
        "says": ["0", "1", "2"],
        "speaker": ["a", "b", "a"],
        "accent": ["x", "y", "z"],
    }
    dataset = datasets.Dataset.from_dict(rows).cast_column("sound", datasets.Audio(decode=False))
    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"test": dataset}).save_to_disk(tmp_path / "splits")
    (tmp_path / "parquet").mkdir()
    dataset.to_parquet(tmp_path / "parquet" / "train.parquet")
    (tmp_path / "folder").mkdir()
    for number in range(3):
        (tmp_path / "folder" / f"{number}.wav").write_bytes(rows["sound"][number]["bytes"])
    (tmp_path / "folder" / "metadata.csv").write_text(
        "file_name,says,speaker,accent\n0.wav,0,a,x\n1.wav,1,b,y\n2.wav,2,a,z\n"
    )
    monkeypatch.setattr(datasets, "load_dataset", _hub(datasets.load_dataset, dataset))

    config = DataConfig(audio_field="sound", text_field="says")
    for name in ("saved", "splits:test", "parquet", "folder"):
        _check_rows(load_cuts(str(tmp_path / name), config), tmp_path)
    _check_rows(load_cuts("fsdd:test", config), tmp_path, "fsdd", None)
    _check_rows(load_cuts("someone/fsdd:test", config), tmp_path, "someone/fsdd", None)
    _check_rows(load_cuts("someone/fsdd/clean:test", config), tmp_path, "someone/fsdd", "clean")

    with pytest.raises(UserError, match="splits: name one of its splits: .*splits:test"):
        load_cuts(str(tmp_path / "splits"), config)
    with pytest.raises(UserError, match="no column `audio`; set data.audio_field to one of sound, says"):
        load_cuts(str(tmp_path / "saved"), DataConfig())
    with pytest.raises(UserError, match="nobody/nothing:test: cannot load the Hugging Face dataset: it is not there"):
        load_cuts("nobody/nothing:test", config)


asked = []


def _hub(local, dataset):
    def load_dataset(name, config=None, *, split):
        if Path(name).is_dir():
            return local(name, config, split=split)
        asked.append((name, config, split))
        if name == "nobody/nothing":
            raise FileNotFoundError("it is not there\nsecond line")
        return dataset

    return load_dataset


def _check_rows(cuts: CutSet, folder: Path, *requested) -> None:
    if requested:
        assert asked[-1] == (*requested, "test")
    for _ in range(2):
        supervisions = [cut.supervisions[0] for cut in cuts]
        assert [(s.text, s.speaker, s.custom) for s in supervisions] == [
            ("0", "a", {"accent": "x"}),
            ("1", "b", {"accent": "y"}),
            ("2", "a", {"accent": "z"}),
        ]
    for number, cut in enumerate(cuts):
        clip = soundfile.read(folder / f"{number}.wav", dtype="float32")[0]
        assert np.array_equal(read_audio(cut, RATE), clip)


def test_sources_in_a_row(tmp_path, digits):
    lhotse_cuts(digits).to_file(tmp_path / "cuts.jsonl")
    cuts = load_cuts([digits, str(tmp_path / "cuts.jsonl")], DataConfig())
    assert cuts.is_lazy
    for _ in range(2):
        assert [cut.supervisions[0].text for cut in cuts] == [str(n) for n in [*range(40), *range(6)]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio": "0.wav", "text": "a"', r"m.jsonl:2: not valid JSON"),
        ("[1]", r"m.jsonl:2: each line must be one JSON object"),
        ('{"text": "a"}', r"m.jsonl:2: no field `audio`"),
        ('{"audio": "0.wav"}', r"m.jsonl:2: no field `text`"),
        ('{"audio": "0.wav", "text": " "}', r"m.jsonl:2: `text` must be a transcript that is not empty"),
        ('{"audio": "0.wav", "text": 5}', r"m.jsonl:2: `text` must be a transcript"),
        ('{"audio": "0.wav", "text": "a", "duration": -1}', r"m.jsonl:2: `duration` must be a number of seconds"),
        ('{"audio": "0.wav", "text": "a", "start": "soon"}', r"m.jsonl:2: `start` must be a number of seconds"),
        ('{"type": "MonoCut", "id": "x"}', r"m.jsonl:2: not a cut that Lhotse can read"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, digits, line, message):
    (tmp_path / "m.jsonl").write_text('{"audio": "0.wav", "text": "a"}\n' + line + "\n")
    with pytest.raises(UserError, match=message) as error:
        load_cuts(str(tmp_path / "m.jsonl"), DataConfig())
    assert "\n" not in str(error.value)


def test_a_wrong_source_is_named(tmp_path, digits):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "folder").mkdir()
    soundfile.write(tmp_path / "folder" / "a.wav", sine(1, RATE), RATE)
    lhotse_cuts(digits, per_cut=2).to_file(tmp_path / "two.jsonl")
    write_manifest(tmp_path / "moved.jsonl", [{"audio": "gone/a.wav", "text": "a"}])
    for source, message in {
        "empty.jsonl": "empty.jsonl: no clips",
        "missing.jsonl": "missing.jsonl: no such file",
        "missing": "missing: no such file or directory .a Hugging Face dataset needs its split",
        "folder": "folder: a directory without manifest",
        "0.wav": "0.wav: not a manifest",
        "two.jsonl": "two.jsonl:1: cut cut0 has 2 supervisions instead of one",
        "moved.jsonl": "moved.jsonl:1: no such audio file: .*gone/a.wav",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            load_cuts(str(tmp_path / source), DataConfig())
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no recordings are given"):
        load_cuts([], DataConfig())


# Batches


def test_every_clip_once_an_epoch_within_budget_and_shuffled(digits):
    first, second = epochs_of(stream_of(digits))
    for epoch in (first, second):
        assert sorted(sum(epoch, [])) == list(range(40))
        for texts in epoch:
            # Padded to its longest clip, a batch stays within its seconds.
            assert len(texts) * max(0.5 + 0.05 * n for n in texts) <= 6.0 + 1e-6
    assert first != second
    assert any(texts != sorted(texts) for texts in first)
    # The budget is used: most batches hold several clips.
    assert len(first) <= 20


@pytest.mark.parametrize(("num_buckets", "clips"), [(10, 3), (1, 40), (10, 1)])
def test_more_buckets_than_clips(tmp_path, digits, num_buckets, clips):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(Path(digits).read_text().splitlines(keepends=True)[:clips]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = iter(stream_of(str(few), num_buckets=num_buckets))
        seen = Counter()
        while sum(seen.values()) < 2 * clips:
            seen.update(next(batches)["texts"].tolist())
    assert seen == dict.fromkeys(range(clips), 2)


def test_max_batch_clips(digits):
    assert max(map(len, texts_of(islice(stream_of(digits, max_batch_clips=3), 20)))) == 3


def test_seconds_are_those_of_the_batch_after_the_speed_change(digits):
    for batch in islice(stream_of(digits, AugmentConfig(speed=[2.0, 2.0])), 5):
        expected = sum(0.5 + 0.05 * n for n in batch["texts"].tolist()) / 2
        assert batch["seconds"].dtype == torch.float32
        assert batch["seconds"].item() == pytest.approx(expected, rel=1e-3)


def test_only_clips_of_the_asked_duration(digits, caplog):
    seen = set(sum(texts_of(islice(stream_of(digits, min_duration=1.0, max_duration=2.0), 30)), []))
    assert seen == set(range(10, 31))
    short, long = caplog.messages
    assert short.startswith("left out 10 of 40 clips, 0.002 hours, shorter than data.min_duration (1 s): ")
    assert short.endswith(f"{digits}:1, {digits}:2, {digits}:3, ...")
    assert long.startswith(
        "left out 9 of 40 clips, 0.006 hours, longer than data.max_duration and the encoder allow (2 s)"
    )
    with pytest.raises(UserError, match=r"no clip lasts between data.min_duration \(10.0 s\)"):
        next(iter(stream_of(digits, min_duration=10.0)))


def test_what_the_encoder_cannot_hear_once_slowed_down_is_passed_over(digits, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "depthup")
    monkeypatch.setattr(Processor, "longest_seconds", 1.0)
    seen = set(sum(texts_of(islice(stream_of(digits, AugmentConfig(speed=[0.8, 1.0])), 30)), []))
    assert seen == set(range(7)) and "left out 33 of 40 clips" in caplog.text and "(0.8 s)" in caplog.text


AUGMENT = AugmentConfig(speed=[0.9, 1.1], noise="white", gain_db=[-6, 6], time_masks=1, freq_masks=1, tilt_db=6)


def test_skipping_equals_having_iterated_and_loads_nothing(digits, monkeypatch):
    whole = list(islice(stream_of(digits, AUGMENT), 30))
    assert not same(whole[0], whole[1])
    reads = []
    monkeypatch.setattr(
        depthup.data.batches, "read_speech", lambda cut, processor: reads.append(cut.id) or read_audio(cut, RATE)
    )
    # 20 batches reach into the second epoch.
    resumed = stream_of(digits, AUGMENT)
    resumed.skip(20)
    rest = list(islice(resumed, 10))
    assert all(map(same, whole[20:], rest))
    assert len(reads) == sum(len(batch["texts"]) for batch in rest)


def test_a_clip_is_changed_anew_each_epoch(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(1, RATE), RATE)
    source = write_manifest(tmp_path / "m.jsonl", [{"audio": "a.wav", "text": "1"}])
    sums = {batch["sums"].item() for batch in islice(stream_of(source, AugmentConfig(gain_db=[-6, 6])), 10)}
    assert len(sums) == 10


@pytest.mark.parametrize("skipped", [0, 3])
def test_workers_change_nothing(digits, skipped):
    alone, shared_out = stream_of(digits, AUGMENT), stream_of(digits, AUGMENT)
    alone.skip(skipped)
    shared_out.skip(skipped)
    batches = list(islice(DataLoader(shared_out, batch_size=None, num_workers=2), 25))
    assert all(map(same, batches, islice(DataLoader(alone, batch_size=None), 25)))


def test_ranks_share_the_batches_of_one_process(digits):
    whole = list(islice(stream_of(digits, AUGMENT), 30))
    for rank in range(2):
        mine = islice(stream_of(digits, AUGMENT, rank=rank, world_size=2), 15)
        assert all(map(same, mine, whole[rank::2]))
    resumed = stream_of(digits, AUGMENT, rank=1, world_size=2)
    resumed.skip(4)
    assert all(map(same, islice(resumed, 5), whole[9::2]))


def test_another_seed_gives_another_order(digits):
    other = stream_of(digits)
    other.seed = 8
    assert texts_of(islice(stream_of(digits), 5)) != texts_of(islice(other, 5))


def test_a_bad_clip_is_skipped_counted_and_named_or_stops_a_strict_run(tmp_path, digits, caplog):
    (tmp_path / "3.wav").write_text("broken")
    (tmp_path / "17.wav").unlink()
    stream = stream_of(digits)
    seen = set(sum(texts_of(islice(stream, 30)), []))
    assert seen == set(range(40)) - {3, 17}
    assert stream.num_bad >= 2 and f"bad clip (number {stream.num_bad})" in caplog.text
    for name in ("3.wav", "17.wav"):
        assert str(tmp_path / name) in caplog.text
    with pytest.raises(BadAudio, match=r"(3|17).wav"):
        list(islice(stream_of(digits, strict=True), 30))


def test_bad_clips_leave_order_workers_and_resuming_alone(tmp_path, digits):
    for number in range(0, 40, 2):
        (tmp_path / f"{number}.wav").write_text("broken")
    # One clip a batch: half of the batches have only bad clips.
    options = {"max_batch_clips": 1}
    whole = list(islice(stream_of(digits, AUGMENT, **options), 60))
    assert set(sum(texts_of(whole), [])) == set(range(1, 40, 2))
    workers = DataLoader(stream_of(digits, AUGMENT, **options), batch_size=None, num_workers=2)
    assert all(map(same, whole, islice(workers, 60)))
    resumed = stream_of(digits, AUGMENT, **options)
    resumed.skip(23)
    assert all(map(same, whole[23:], islice(resumed, 37)))


def test_an_epoch_of_bad_clips_ends(tmp_path, digits):
    for number in range(40):
        (tmp_path / f"{number}.wav").write_text("broken")
    with pytest.raises(UserError, match="every clip of an epoch is bad"):
        next(iter(stream_of(digits)))


def test_clips_without_stated_duration(tmp_path, digits, caplog):
    """Durations come from the headers; a file without a readable one is still found, skipped and named."""
    rows = [json.loads(line) for line in Path(digits).read_text().splitlines()]
    bare = write_manifest(tmp_path / "bare.jsonl", [{"audio": row["audio"], "text": row["text"]} for row in rows])
    (tmp_path / "20.wav").write_text("broken")
    assert set(sum(texts_of(islice(stream_of(bare), 30)), [])) == set(range(40)) - {20}
    assert str(tmp_path / "20.wav") in caplog.text


def test_real_recordings(shared):
    source = str(shared / "speech" / "fsdd" / "train.jsonl")
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    data = DataConfig(batch_seconds=30)

    class Spoken(Processor):
        def training_batch(self, audio, texts, feature_transform, prompts):
            numbers = [str(words.index(text)) for text in texts]
            return super().training_batch(audio, numbers, feature_transform, prompts)

    stream = BatchStream(load_cuts(source, data), Spoken(), data, AugmentConfig(), seed=0)
    seen, seconds, batches = Counter(), 0.0, iter(stream)
    while seen.total() < 1800:
        batch = next(batches)
        seen.update(batch["texts"].tolist())
        seconds += batch["seconds"].item()
        assert len(batch["texts"]) * batch["lengths"].max() / RATE <= 30.1
    stated = sum(json.loads(line)["duration"] for line in Path(source).read_text().splitlines())
    assert seen == dict.fromkeys(range(10), 180) and stream.num_bad == 0
    assert seconds == pytest.approx(stated, rel=1e-3)
