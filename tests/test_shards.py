"""Shards: what went in comes out, no byte depends on workers or interruptions, and damage is noticed and named."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shutil
import signal
import tarfile
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import faults
import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording, SupervisionSegment

from depthup.cli import main
from depthup.config import AugmentConfig, DataConfig
from depthup.data import BatchStream, load_cuts, read_audio
from depthup.data.mixing import in_epoch
from depthup.data.shards import make_shards, verify_shards
from depthup.errors import UserError

RATE = 16000


def write_clip(path: Path, number: int, rate: int = RATE, seconds: float = 0.3) -> None:
    times = np.arange(round((seconds + 0.01 * number) * rate)) / rate
    soundfile.write(path, (0.5 * np.sin(2 * np.pi * (200 + 20 * number) * times)).astype(np.float32), rate)


def write_rows(folder: Path, name: str, numbers: range, **fields) -> str:
    rows = []
    for number in numbers:
        write_clip(folder / f"{number}.wav", number)
        speaker, language = f"s{number % 3}", "en" if number % 2 else "de"
        row = {"audio": f"{number}.wav", "text": f"clip {number}", "speaker": speaker, "language": language}
        rows.append({**row, "accent": "scots", "take": number, **fields})
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def clips(tmp_path: Path) -> str:
    """A manifest of ten clips of 0.30 to 0.39 s, German and English in turn."""
    return write_rows(tmp_path, "clips.jsonl", range(10))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def texts(source: object, config: DataConfig | None = None) -> list[str]:
    return [cut.supervisions[0].text for cut in load_cuts(str(source), config or DataConfig())]


def all_but_ids(cut) -> tuple:
    (supervision,) = cut.supervisions
    return supervision.text, supervision.speaker, supervision.language, supervision.custom, round(cut.duration, 4)


def test_what_goes_in_comes_out(tmp_path, clips):
    manifest = make_shards(clips, tmp_path / "out", shard_clips=4)
    before, after = list(load_cuts(clips, DataConfig())), list(load_cuts(str(tmp_path / "out"), DataConfig()))
    assert list(map(all_but_ids, before)) == list(map(all_but_ids, after))
    for old, new in zip(before, after, strict=True):
        assert np.abs(read_audio(old, RATE) - read_audio(new, RATE)).max() <= 2**-15
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["clips"] == 10 and manifest["speakers"] == {"s0": 4, "s1": 3, "s2": 3}
    assert manifest["hours"] == pytest.approx(3.45 / 3600, abs=1e-6)
    assert manifest["language_hours"]["en"] == pytest.approx(1.75 / 3600, abs=1e-6)
    assert manifest["clipped"] == 0 and manifest["skipped"] == {}
    assert [shard["clips"] for shard in manifest["shards"]] == [4, 4, 2]
    assert [shard["seconds"] for shard in manifest["shards"]] == pytest.approx([1.26, 1.42, 0.77])
    # Lhotse reads the folder by itself.
    assert [cut.id for cut in CutSet.from_shar(in_dir=tmp_path / "out" / "shards")] == [cut.id for cut in after]


def test_shards_and_lhotse_cuts_are_sources_too(tmp_path, clips):
    make_shards(clips, tmp_path / "once", shard_clips=4)
    recorded = []
    for number in (3, 4):
        cut = Recording.from_file(tmp_path / f"{number}.wav").to_cut().truncate(offset=0.1, duration=0.1)
        cut.supervisions = [SupervisionSegment("s", cut.recording_id, 0.02, 0.05, text="span", speaker="x")]
        recorded.append(cut)
    CutSet.from_cuts(recorded).to_file(tmp_path / "lhotse.jsonl")
    sources = [str(tmp_path / "once"), str(tmp_path / "lhotse.jsonl"), clips]
    make_shards(sources, tmp_path / "out", shard_clips=7)
    numbered = [f"clip {n}" for n in range(10)]
    assert texts(tmp_path / "out") == [*numbered, "span", "span", *numbered]
    before, after = list(load_cuts(sources, DataConfig()))[10], list(load_cuts(str(tmp_path / "out"), DataConfig()))[10]
    assert np.abs(read_audio(before, RATE) - read_audio(after, RATE)).max() <= 2**-15
    assert (after.supervisions[0].start, after.supervisions[0].duration) == (0.02, 0.05)


def test_rate_and_channels(tmp_path):
    tone = 0.4 * np.sin(np.arange(8000) / 10).astype(np.float32)
    soundfile.write(tmp_path / "0.wav", np.stack([tone, 3 * tone], axis=1), 8000, subtype="FLOAT")
    write_clip(tmp_path / "1.wav", 1, rate=22050)
    (tmp_path / "m.jsonl").write_text("".join(f'{{"audio": "{n}.wav", "text": "a"}}\n' for n in (0, 1)))
    kept = make_shards(str(tmp_path / "m.jsonl"), tmp_path / "kept", sampling_rate=0)
    first, second = load_cuts(str(tmp_path / "kept"), DataConfig())
    assert (first.sampling_rate, second.sampling_rate) == (8000, 22050) and kept["clipped"] == 0
    assert np.abs(read_audio(first, 8000) - 2 * tone).max() <= 2**-15
    make_shards(str(tmp_path / "m.jsonl"), tmp_path / "fixed")
    assert {cut.sampling_rate for cut in load_cuts(str(tmp_path / "fixed"), DataConfig())} == {RATE}
    soundfile.write(tmp_path / "0.wav", 3 * tone, 8000, subtype="FLOAT")
    assert make_shards(str(tmp_path / "m.jsonl"), tmp_path / "loud")["clipped"] == 1


# Interruptions and processes


def killed_at(rename: int, source: str, output: Path) -> bool:
    """Whether a process that would die at so many-th rename died, or was through before."""
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    left, real = rename, os.replace

    def replace_or_die(*paths):
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*paths)

    os.replace = replace_or_die
    try:
        make_shards(source, output, shard_clips=2)
        os._exit(0)
    finally:
        os._exit(1)


def test_killed_at_any_moment_it_goes_on_and_ends_as_if_never_killed(tmp_path, clips):
    make_shards(clips, tmp_path / "whole", shard_clips=2)
    expected, torn = contents(tmp_path / "whole"), tmp_path / "torn"
    finished: dict[str, int] = {}
    attempts = 0
    # The renames of a run: its plan, then audio, cuts and summary of each shard, then the manifest.
    while killed_at(1 + attempts % 5, clips, torn):
        attempts += 1
        assert not (torn / "manifest.json").exists()
        for path in torn.glob("shards/*"):
            # Under its name a file is whole, whatever happened.
            assert path.read_bytes() == expected[f"shards/{path.name}"]
        tars = {path.stem: torn / "shards" / f"recording.{path.stem}.tar" for path in torn.glob(".partial/0*.json")}
        done = {number: tar.stat().st_ino for number, tar in tars.items()}
        assert finished.items() <= done.items()  # what was finished is not written again
        finished = done
        if attempts > 1:
            with pytest.raises(UserError, match="manifest.json: unfinished; run the same"):
                load_cuts(str(torn), DataConfig())
    assert attempts > 10 and contents(torn) == expected


def make_and_keep(source: str, output: Path, kept: Path) -> None:
    faults.keep_before_changes(output, kept)
    make_shards(source, output, shard_clips=5)


def test_killed_before_any_change_of_a_file_it_ends_the_same(tmp_path, clips):
    output, kept = tmp_path / "output", tmp_path / "kept"
    assert faults.ended(faults.start(make_and_keep, clips, output, kept)) == 0
    expected, moments = contents(output), sorted(kept.iterdir())
    assert len(moments) > 20
    for killed in moments:
        shutil.rmtree(output)
        killed.rename(output)
        make_shards(clips, output, shard_clips=5)
        assert contents(output) == expected


def test_processes_change_nothing(tmp_path, clips):
    make_shards(clips, tmp_path / "alone", shard_clips=3)
    make_shards(clips, tmp_path / "two", shard_clips=3, num_workers=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "two")


def test_time_and_place_change_nothing(tmp_path, clips, monkeypatch):
    make_shards(clips, tmp_path / "now", shard_clips=5)
    monkeypatch.setattr("time.time", lambda: 1e9)
    make_shards(clips, tmp_path / "100% other", shard_clips=5)
    assert contents(tmp_path / "now") == contents(tmp_path / "100% other")


def test_a_complete_directory_is_left_alone_and_a_removed_file_comes_back(tmp_path, clips):
    out = tmp_path / "out"
    manifest = make_shards(clips, out, shard_clips=3)
    expected, inode = contents(out), (out / "shards" / "recording.000000.tar").stat().st_ino
    assert make_shards(clips, out, shard_clips=3) == manifest and contents(out) == expected
    (out / "shards" / "recording.000001.tar").unlink()
    assert make_shards(clips, out, shard_clips=3) == manifest and contents(out) == expected
    assert (out / "shards" / "recording.000000.tar").stat().st_ino == inode
    (out / "shards" / "recording.000001.tar").unlink()
    write_clip(tmp_path / "4.wav", 5)
    with pytest.raises(UserError, match="shard 1, written again, is not what manifest.json says"):
        make_shards(clips, out, shard_clips=3)


def test_other_sources_options_or_files_are_refused(tmp_path, clips):
    out = tmp_path / "out"
    make_shards(clips, out)
    other = write_rows(tmp_path, "other.jsonl", range(3))
    for source, options, changed in [
        (other, {}, "sources"),
        ([clips, other], {}, "sources"),
        (clips, {"shard_clips": 5}, "shard_clips"),
        (clips, {"sampling_rate": 8000}, "sampling_rate"),
    ]:
        with pytest.raises(UserError, match=f"out: holds shards made with other {changed}; choose another --output"):
            make_shards(source, out, **options)
    with open(clips, "a") as manifest:
        manifest.write(json.dumps({"audio": "1.wav", "text": "one more"}) + "\n")
    with pytest.raises(UserError, match="other sources"):
        make_shards(clips, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="mine: is not empty and holds no shards"):
        make_shards(clips, tmp_path / "mine")


# Bad clips and full disks


def test_bad_clips_are_skipped_counted_and_named_or_stop_a_strict_run(tmp_path, clips, caplog):
    (tmp_path / "1.wav").write_text("broken")
    (tmp_path / "2.wav").unlink()
    soundfile.write(tmp_path / "3.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "4.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    rows = [json.loads(line) for line in Path(clips).read_text().splitlines()]
    rows[5]["text"] = " "
    del rows[6]["text"]
    rows[7]["duration"] = rows[8]["duration"] = 2.5
    Path(clips).write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = make_shards(clips, tmp_path / "out", shard_clips=2)
    # Only the first and last shards have a clip that can be used.
    assert texts(tmp_path / "out") == ["clip 0", "clip 9"] and manifest["clips"] == 2
    assert [shard["number"] for shard in manifest["shards"]] == [0, 4]
    assert {kind: found["clips"] for kind, found in manifest["skipped"].items()} == {
        "cannot be read as audio": 1,
        "no such audio file": 1,
        "has no samples": 1,
        "has samples that are NaN or infinite": 1,
        "`text` must be a transcript that is not empty, not ' '": 1,
        "no field `text`": 1,
        "N s of audio where N s are expected from second N": 2,
    }
    for number in range(1, 9):
        assert f"{clips}:{number + 1}: " in caplog.text
    assert "2.wav: no such audio file" in manifest["skipped"]["no such audio file"]["first"][0]
    with pytest.raises(UserError, match="1.wav: cannot be read as audio"):
        make_shards(clips, tmp_path / "strict", DataConfig(strict=True))


def test_what_flac_cannot_hold_is_said(tmp_path, caplog):
    soundfile.write(tmp_path / "loud.wav", 5 * np.sin(np.arange(4000)), RATE, subtype="FLOAT")
    (tmp_path / "loud.jsonl").write_text(json.dumps({"audio": "loud.wav", "text": "one"}) + "\n")
    make_shards(str(tmp_path / "loud.jsonl"), tmp_path / "out", num_workers=0)
    assert "reaches 5.0 times full scale, which FLAC cuts off" in caplog.text
    for rate in (999, 999_999_999):
        with pytest.raises(UserError, match="--sampling-rate must be from 1000 to 655350 Hz"):
            make_shards(str(tmp_path / "loud.jsonl"), tmp_path / "other", sampling_rate=rate)


def test_no_usable_clip_at_all(tmp_path, clips):
    for number in range(10):
        (tmp_path / f"{number}.wav").write_text("broken")
    with pytest.raises(UserError, match="no usable clip; the first: .*0.wav: cannot be read as audio"):
        make_shards(clips, tmp_path / "out")


def test_a_wrong_field_name_is_told_before_anything_is_written(tmp_path, clips):
    with pytest.raises(UserError, match="clips.jsonl:1: no field `says`"):
        make_shards(clips, tmp_path / "out", DataConfig(text_field="says"))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_can_go_on(tmp_path, clips, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lhotse.shar.writers.tar.tarfile.TarFile.addfile", full)
        with pytest.raises(UserError, match="out: no space left on the disk"):
            make_shards(clips, tmp_path / "out")
    make_shards(clips, tmp_path / "out")
    make_shards(clips, tmp_path / "other")
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


# Damage


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        at = min(700, len(content) // 2)
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif kind == "ends between clips" and path.suffix == ".tar":
        with tarfile.open(path) as tar:
            path.write_bytes(content[: tar.getmembers()[2].offset])
    elif kind == "ends between clips":
        path.write_bytes(gzip.compress(b"".join(gzip.decompress(content).splitlines(keepends=True)[:-1])))
    else:
        path.unlink()


@pytest.mark.parametrize("kind", ["cut short", "flipped", "ends between clips", "missing"])
@pytest.mark.parametrize("file", ["recording.000002.tar", "cuts.000002.jsonl.gz"])
def test_verify_names_what_is_damaged(tmp_path, clips, file, kind):
    make_shards(clips, tmp_path / "out", shard_clips=3)
    assert verify_shards(tmp_path / "out") == []
    damage(tmp_path / "out" / "shards" / file, kind)
    (line,) = verify_shards(tmp_path / "out")
    assert f"shards/{file}" in line


@pytest.mark.parametrize(
    ("file", "kind", "left"),
    [
        ("recording.000001.tar", "cut short", {3}),
        ("recording.000001.tar", "ends between clips", {3}),
        ("recording.000001.tar", "missing", set()),
        ("cuts.000001.jsonl.gz", "cut short", set()),
        ("cuts.000001.jsonl.gz", "flipped", set()),
        ("cuts.000001.jsonl.gz", "ends between clips", {3}),
        ("cuts.000001.jsonl.gz", "missing", set()),
    ],
)
def test_a_damaged_shard_is_left_and_named_or_stops_a_strict_run(tmp_path, clips, caplog, file, kind, left):
    make_shards(clips, tmp_path / "out", shard_clips=3)
    damage(tmp_path / "out" / "shards" / file, kind)
    cuts = load_cuts(str(tmp_path / "out"), DataConfig())
    for _ in range(2):
        found = {int(cut.supervisions[0].text.split()[1]) for cut in cuts}
        assert found - {3, 4, 5} == {0, 1, 2, 6, 7, 8, 9} and left <= found != set(range(10))
    warnings = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(warnings) == 1 and "000001" in warnings[0] and "(number 1)" in warnings[0] and "\n" not in warnings[0]
    with pytest.raises(UserError, match="000001.*the shard is damaged"):
        texts(tmp_path / "out", DataConfig(strict=True))


# Far away


def test_shards_behind_a_command(tmp_path, clips, caplog, monkeypatch):
    monkeypatch.setattr("depthup.data.shard_index.CACHE", tmp_path / "cache")
    make_shards(clips, tmp_path / "out", shard_clips=4)
    source = f"pipe:cat '{tmp_path}/out/{{}}'"
    assert texts(source) == [f"clip {n}" for n in range(10)]
    (tmp_path / "out" / "shards" / "recording.000001.tar").unlink()
    assert len(texts(source)) == 6 and "recording.000001.tar" in caplog.text
    with pytest.raises(UserError, match="no manifest of shards can be read there"):
        load_cuts(f"pipe:cat {tmp_path}/nowhere/{{}} 2>/dev/null", DataConfig())


def test_shards_at_a_url(tmp_path, clips, monkeypatch):
    monkeypatch.setattr("depthup.data.shard_index.CACHE", tmp_path / "cache")
    make_shards(clips, tmp_path / "out", shard_clips=4)
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        there, here = (load_cuts(source, DataConfig()) for source in (f"{url}/out", str(tmp_path / "out")))
        for far, near in zip(there, here, strict=True):
            assert np.array_equal(read_audio(far, 16000), read_audio(near, 16000))
        with pytest.raises(UserError, match="nowhere.*no manifest of shards can be read there"):
            load_cuts(f"{url}/nowhere", DataConfig())
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


# Epochs and mixing


def epoch_of(cuts: CutSet, epoch: int, weights: tuple | None = None, seed: int = 1) -> list[str]:
    numbers = np.concatenate(list(in_epoch(cuts.data, seed, epoch, weights, size=7)))
    return [cuts.data.cut(number).supervisions[0].text for number in numbers]


def test_an_epoch_decides_the_order_of_shards(tmp_path, clips):
    make_shards(clips, tmp_path / "out", shard_clips=2)
    cuts, plain = load_cuts(str(tmp_path / "out"), DataConfig()), [f"clip {n}" for n in range(10)]
    orders = [epoch_of(cuts, epoch) for epoch in range(4)]
    assert all(sorted(order) == plain for order in orders) and len(set(map(tuple, orders))) > 1
    # Nothing that was read before matters; other seeds give other orders; without an epoch it is the plain one.
    again = load_cuts(str(tmp_path / "out"), DataConfig())
    assert [epoch_of(again, epoch) for epoch in (3, 1)] == [orders[3], orders[1]]
    assert len({tuple(epoch_of(cuts, 0, seed=seed)) for seed in range(4)}) > 1
    assert texts(tmp_path / "out") == plain
    # Clips of a shard stay together, else nothing could be streamed.
    pairs = zip(orders[0][::2], orders[0][1::2], strict=True)
    assert set(pairs) == set(zip(plain[::2], plain[1::2], strict=True))


def test_weights_are_shares_until_every_source_is_through(tmp_path):
    small = write_rows(tmp_path, "small.jsonl", range(4), text="small")
    large = write_rows(tmp_path, "large.jsonl", range(4), text="large")
    Path(large).write_text(Path(large).read_text() * 100)
    cuts = load_cuts([small, large], DataConfig())
    assert Counter(epoch_of(cuts, 0)) == {"small": 4, "large": 400}
    mixed = epoch_of(cuts, 0, (1.0, 2.0))
    # The large source exactly once, the small one again and again at its share, from beginning to end.
    assert Counter(mixed)["large"] == 400 and 140 < Counter(mixed)["small"] < 260
    for part in (mixed[:300], mixed[-300:]):
        assert 0.2 < Counter(part)["small"] / 300 < 0.47
    assert mixed == epoch_of(cuts, 0, (1.0, 2.0)) != epoch_of(cuts, 1, (1.0, 2.0))


def test_mixed_shards_come_in_another_order_when_they_begin_again(tmp_path, clips):
    make_shards(clips, tmp_path / "out", shard_clips=1)
    long = write_rows(tmp_path, "long.jsonl", range(1), text="long")
    Path(long).write_text(Path(long).read_text() * 60)
    mixed = epoch_of(load_cuts([str(tmp_path / "out"), long], DataConfig()), 0, (1.0, 1.0))
    shards = [text for text in mixed if text != "long"]
    first, second = shards[:10], shards[10:20]
    assert sorted(first) == sorted(second) == sorted(set(shards)) and first != second


class Processor:
    """Stands for the real one: the numbers in the texts."""

    sampling_rate = RATE
    longest_seconds = float("inf")

    def seconds(self, clip):
        return len(clip) / RATE

    def training_batch(self, audio, texts, feature_transform, prompts):
        return {"numbers": torch.tensor([int(text.split()[-1]) for text in texts])}


def batches_of(sources: list[str], skip: int = 0, **options) -> list[list[int]]:
    data = DataConfig(train=sources, batch_seconds=0.8, num_buckets=1, shuffle_buffer=4, **options)
    stream = BatchStream(load_cuts(sources, data), Processor(), data, AugmentConfig(), seed=3)
    stream.skip(skip)
    return [batch["numbers"].tolist() for batch in islice(stream, 30 - skip)]


def test_batches_from_shards_come_in_an_order_of_their_epoch_and_can_be_resumed(tmp_path, clips):
    make_shards(clips, tmp_path / "out", shard_clips=2)
    whole = batches_of([str(tmp_path / "out")])
    numbers = sum(whole, [])
    assert sorted(numbers[:10]) == sorted(numbers[10:20]) == list(range(10))
    # The buffer holds four clips, so that without shuffled shards the first two are of the first four or five.
    assert any(numbers[start] > 5 for start in range(0, 60, 10))
    assert batches_of([str(tmp_path / "out")], skip=11) == whole[11:]


def test_batches_have_the_weights_of_the_recipe(tmp_path, clips):
    rare = write_rows(tmp_path, "rare.jsonl", range(4), text="rare 77")
    numbers = sum(batches_of([clips, rare], weights=[1.0, 4.0]), [])
    assert numbers.count(77) > 0.6 * len(numbers)
    for weights, message in [([1.0], "data.weights: 1 for 2 sources"), ([1.0, 0.0], "data.weights must be positive")]:
        with pytest.raises(ValueError, match=message):
            DataConfig(train=[clips, rare], weights=weights)


# The command


def test_the_command(tmp_path, clips, capsys):
    (tmp_path / "2.wav").write_text("broken")
    out = str(tmp_path / "out")
    assert main(["data", clips, "--output", out, "--shard-clips", "4", "--num-workers", "0"]) == 0
    told = capsys.readouterr()
    assert told.out == f"9 clips, 0.00 hours in 3 shards: {out}\n"
    assert "skipped 1 clips: cannot be read as audio" in told.err
    assert main(["data", "--verify", out]) == 0
    damage(tmp_path / "out" / "shards" / "cuts.000001.jsonl.gz", "cut short")
    capsys.readouterr()
    assert main(["data", "--verify", out]) == 2
    assert "cuts.000001.jsonl.gz: has" in capsys.readouterr().err
    for words, message in [
        ([], "give one SOURCE and perhaps --look PAGE, SOURCE... and --output DIR, or --verify DIR"),
        ([clips, clips], "SOURCE... and --output DIR"),
        (["--verify", str(tmp_path)], "manifest.json: not there"),
        ([clips, "--output", str(tmp_path / "s"), "--strict", "--num-workers", "0"], "2.wav: cannot be read as audio"),
        ([clips, "--output", out, "--shard-clips", "5"], "out: holds shards made with other shard_clips"),
    ]:
        assert main(["data", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_progress_where_nobody_watches(tmp_path, clips, capsys, monkeypatch):
    monkeypatch.setattr("depthup.progress.LINE_EVERY", 0.0)
    make_shards(clips, tmp_path / "out", shard_clips=5)
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"5 clips  0\.00 h  \d+\.\d+ h/s  0:00:\d\d left", first)
    assert second.startswith("10 clips") and second.endswith("0:00:00 left")
