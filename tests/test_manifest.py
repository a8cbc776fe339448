"""Rows of manifests: every field that says which sound is meant is understood or refused, and no row is swallowed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from depthup.config import DataConfig
from depthup.data import load_cuts, read_audio
from depthup.errors import UserError

RATE = 8000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a recording of six seconds, each of its own loudness, and another of two channels."""
    seconds = np.repeat(np.arange(1, 7) / 10, RATE)
    soundfile.write(tmp_path / "long.wav", seconds, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "two.wav", np.tile([0.25, 0.75], (RATE, 1)), RATE, subtype="FLOAT")
    return tmp_path


def write(folder: Path, rows: list[dict] | str, name: str = "m.jsonl") -> str:
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text)
    return str(folder / name)


def heard(source: str, **data: object) -> list[tuple[str, float, float]]:
    """Text, seconds and mean of each clip."""
    found = []
    for cut in load_cuts(source, DataConfig(**data)):
        samples = read_audio(cut, RATE)
        found.append((cut.supervisions[0].text, len(samples) / RATE, round(float(samples.mean()), 3)))
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {"audio": "long.wav", "start": 2, "duration": 1},
        {"audio_filepath": "long.wav", "offset": 2, "duration": 1},
        {"audio": "long.wav", "start": 2, "end": 3},
        {"audio": "long.wav", "start_time": "2.0", "end_time": "3.0"},
        {"audio": "long.wav", "start": 2, "end": 3.05, "duration": 1, "offset": 2.0},
    ],
)
def test_stretches_of_a_recording_by_anybodys_names(folder: Path, fields: dict):
    source = write(folder, [{**fields, "text": "third"}])
    ((text, seconds, mean),) = heard(source)
    assert (text, mean) == ("third", 0.3) and seconds == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"begin": 2}, "field `begin` looks like a time of the clip and is not one of start"),
        ({"startTime": "2.5"}, "field `startTime` looks like a time"),
        ({"timestamp": [2, 3]}, "field `timestamp` looks like a time"),
        ({"seg_start_ms": 2000}, "field `seg_start_ms` looks like a time"),
        ({"from": "00:01:02.5"}, "field `from` looks like a time"),
        ({"num_frames": 100}, "field `num_frames` looks like a time"),
        ({"begin": "0.5 s"}, "field `begin` looks like a time"),
        ({"beg": 1}, "field `beg` looks like a time"),
        ({"segment": [1, 2.5]}, "field `segment` looks like a time"),
        ({"clip": "1.0-2.5"}, "field `clip` looks like a time"),
        ({"vad": [[0.1, 0.2], [1, 2]]}, "field `vad` looks like a time"),
        ({"timestamps": {"start": 1, "end": 2}}, "field `timestamps.start` looks like a time"),
        ({"channel": [0, 1]}, "`channel` must be mix, left, right or a number from 0, not .0, 1."),
        ({"channel": -1}, "`channel` must be mix, left, right or a number from 0, not -1"),
        ({"channel_selector": "average"}, "`channel_selector` must be mix, left, right or a number from 0"),
        ({"start": 1, "offset": 2}, "start and offset do not agree"),
        ({"start": 2, "end": 3, "duration": 5}, "duration 5.0 and end - start, 1.000, do not agree"),
        ({"start": 2, "end": 2}, "ends at second 2.0, which is not after its start 2.0"),
        ({"end": "soon"}, "`end` must be a number of seconds, not 'soon'"),
        ({"start": True}, "`start` must be a number of seconds, not True"),
    ],
)
def test_a_time_that_is_not_understood_is_refused_by_name(folder: Path, fields: dict, says: str):
    with pytest.raises(UserError, match=f"^{folder}/m.jsonl:1: .*{says}") as error:
        heard(write(folder, [{"audio": "long.wav", "text": "a", **fields}]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["text", "speaker", "place"])
def test_half_of_a_character_is_refused_wherever_it_stands(folder: Path, field: str):
    with pytest.raises(UserError, match=r"m.jsonl:1: '\\ud800' is half of a character; write the text again"):
        heard(write(folder, [{"audio": "long.wav", "text": "a", field: "\ud800 b"}]))


def test_other_fields_stay_groups_and_what_only_looks_like_a_time_can_be_ignored(folder: Path):
    others = {"recorded_time": 1700000000, "end_reason": "hung up", "channel": "telephone", "sender": 5, "ok": True}
    others |= {"segment": 7, "words": [{"word": "a", "start": 0.1}], "date": {"year": 2026}, "turn": "b"}
    source = write(folder, [{"audio": "long.wav", "text": "a", "length": 3, **others}])
    (cut,) = load_cuts(source, DataConfig(ignore_fields=["length"]))
    assert cut.supervisions[0].custom == others and cut.duration == 6
    with pytest.raises(UserError, match="`length` looks like a time"):
        load_cuts(source, DataConfig())


def test_a_row_or_a_recipe_may_name_the_channel(folder: Path):
    rows = [{"audio": "two.wav", "text": "a", **fields} for fields in ({}, {"channel": 1.0}, {"channel": "left"})]
    assert [mean for *_, mean in heard(write(folder, rows))] == [0.5, 0.75, 0.25]
    assert [mean for *_, mean in heard(write(folder, rows), channel="right")] == [0.75, 0.75, 0.25]
    assert [mean for *_, mean in heard(write(folder, [{**rows[0], "channel_selector": 1}]))] == [0.75]
    table = write(folder, "audio,text,channel\ntwo.wav,a,1\ntwo.wav,a,\n", "m.csv")
    assert [mean for *_, mean in heard(table)] == [0.75, 0.5]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "audio,text\nlong.wav,turn on, the light\n",
            ":2: 3 cells where the first line names 2; put a text that holds",
        ),
        ("audio,text,speaker\nlong.wav,a,x\nlong.wav,b\n", ":3: 2 cells where the first line names 3"),
        ('audio,text\nlong.wav,"on\nlong.wav,off\nlong.wav,"up"\n', ":2: the quotes of this row do not match"),
        ('text,audio\n"on,long.wav\n"off"\n', ":2: the quotes of this row do not match"),
        ('audio,text\nlong.wav,"on\nlong.wav,off"\n', ":2: a quoted cell goes on to line 3, so a quote is missing"),
        ('audio,text\nlong.wav,a\nlong.wav,"on\n', ":3: the quotes of this row do not match"),
        ("audio,text,text\nlong.wav,a,b\n", ":1: two columns have the same name"),
        ("audio;text\nlong.wav;a\n", r":2: no field `audio` with a path; .*\(fields here: audio;text\)"),
    ],
)
def test_a_table_that_would_lose_text_or_rows_is_refused_with_the_line(folder: Path, text: str, says: str):
    with pytest.raises(UserError, match=f"^{folder}/m.csv{says}"):
        heard(write(folder, text, "m.csv"))


def test_tables_with_quotes_and_with_tabs(folder: Path):
    table = 'audio,text\nlong.wav,"he said ""on, now"""\n\nlong.wav,"plain"\n'
    assert [text for text, *_ in heard(write(folder, table, "m.csv"))] == ['he said "on, now"', "plain"]
    tabs = 'path\tsentence\tage\nlong.wav\the said "on, now\t\n'
    source = write(folder, tabs, "m.tsv")
    assert [text for text, *_ in heard(source, audio_field="path", text_field="sentence")] == ['he said "on, now']


def test_a_field_that_is_there_twice(folder: Path):
    with pytest.raises(UserError, match="m.jsonl:1: `text` is there twice; keep one"):
        heard(write(folder, '{"audio": "long.wav", "text": "a", "text": "b"}\n'))


def test_a_whole_file_longer_or_shorter_than_its_header_says_is_no_clip(folder: Path):
    source = write(folder, [{"audio": "long.wav", "text": "a"}])
    (cut,) = load_cuts(source, DataConfig())
    for seconds in (3, 9):  # the header was another when the manifest was read
        soundfile.write(folder / "long.wav", np.full(seconds * RATE, 0.1), RATE)
        with pytest.raises(UserError, match=r"3.00 s of audio where 6.00 s|more than the 6.00 s that its header"):
            read_audio(cut, RATE)


def test_a_manifest_that_cannot_be_read_says_why(folder: Path):
    packed = gzip.compress(b'{"audio": "long.wav", "text": "a"}\n' * 50)
    (folder / "cut.jsonl.gz").write_bytes(packed[:-20])
    (folder / "flipped.jsonl.gz").write_bytes(packed[:-8] + bytes(4) + packed[-4:])
    (folder / "latin.jsonl").write_bytes('{"audio": "long.wav", "text": "caf\xe9"}'.encode("latin-1"))
    says = {"cut.jsonl.gz": "is damaged", "flipped.jsonl.gz": "is damaged", "latin.jsonl": "is not UTF-8 text"}
    for name, why in says.items():
        with pytest.raises(UserError, match=f"^{folder / name}: {why}"):
            list(load_cuts(str(folder / name), DataConfig()))


def test_a_file_cut_short_is_no_clip_for_a_text_that_says_more(folder: Path):
    content = (folder / "long.wav").read_bytes()
    (folder / "long.wav").write_bytes(content[: len(content) // 2])
    whole, part = write(folder, [{"audio": "long.wav", "text": "a"}]), [{"audio": "long.wav", "text": "a", "end": 2}]
    (cut,) = load_cuts(whole, DataConfig())
    with pytest.raises(UserError, match=r"is cut short: 3.00 s of the 6.00 s that it states; its text says more"):
        read_audio(cut, RATE)
    assert heard(write(folder, part)) == [("a", 2.0, 0.15)]


def test_a_line_holds_nothing_that_a_terminal_would_obey(folder: Path):
    with pytest.raises(UserError) as error:
        load_cuts(write(folder, '{"\\u001b[2Jaudio": 5}\n'), DataConfig())
    assert str(error.value).isprintable() and r"\x1b[2Jaudio" in str(error.value)
