"""Transcripts as files and on standard output: formats, names, going on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from depthup.errors import UserError
from depthup.transcribe import output
from depthup.transcribe.formats import FORMATS, summary
from depthup.transcribe.reading import Recording
from depthup.transcribe.transcript import Segment, Transcript, Word

TALK = Transcript(
    "talk.wav",
    "Hello there. A & B <i>",
    3725.5,
    "en",
    [
        Segment(0.5, 1.25, "Hello there.", [Word(0.5, 0.9, "Hello", 0.9), Word(1.0, 1.25, "there.", 0.8)], 0.85),
        Segment(3723.004, 3725.5, "A & B <i>", flagged=True),
    ],
)
SILENT = Transcript("silence.wav", duration=3.0)

WRITTEN = {
    "text": "Hello there.\nA & B <i>\n",
    "srt": "1\n00:00:00,500 --> 00:00:01,500\nHello there.\n\n2\n01:02:03,004 --> 01:02:05,500\nA & B <i>\n",
    "vtt": "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nHello there.\n\n"
    "01:02:03.004 --> 01:02:05.500\nA &amp; B &lt;i&gt;\n",
    "tsv": "start\tend\ttext\n500\t1250\tHello there.\n3723004\t3725500\tA & B <i>\n",
}


def test_formats_are_what_other_tools_read():
    assert {name: FORMATS[name](TALK) for name in WRITTEN} == WRITTEN
    assert {name: FORMATS[name](SILENT) for name in WRITTEN} == {
        "text": "\n",
        "srt": "",
        "vtt": "WEBVTT\n",
        "tsv": "start\tend\ttext\n",
    }
    verbose = json.loads(FORMATS["verbose_json"](TALK))
    assert (verbose["task"], verbose["language"], verbose["duration"]) == ("transcribe", "en", 3725.5)
    assert verbose["words"] == [
        {"word": "Hello", "start": 0.5, "end": 0.9, "confidence": 0.9},
        {"word": "there.", "start": 1.0, "end": 1.25, "confidence": 0.8},
    ]
    assert [segment["id"] for segment in verbose["segments"]] == [0, 1]
    assert verbose["segments"][1]["flagged"] and "words" not in json.loads(FORMATS["verbose_json"](SILENT))
    told = json.loads(FORMATS["json"](TALK))
    assert told["segments"][0]["words"][1] == {"start": 1.0, "end": 1.25, "text": "there.", "confidence": 0.8}
    assert "error" not in told and "channel" not in told


def test_json_of_several_holds_their_speed_and_the_error_only_of_those_that_failed():
    found = summary([Transcript("a", "hi", 3.0), Transcript("b", error="b: no such audio file")], seconds=1.5)
    assert (found["audio_seconds"], found["wall_seconds"], found["rtf"]) == (3.0, 1.5, 0.5)
    assert found["files"][0] == {"path": "a", "text": "hi", "duration": 3.0, "language": None, "segments": []}
    assert found["files"][1]["error"] == "b: no such audio file"
    assert summary([], seconds=1.0)["rtf"] is None


def recordings(*paths: object) -> list[Recording]:
    return [Recording(str(path), []) for path in paths]


def touched(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_files_are_named_like_their_recordings_and_those_that_stand_are_not_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    paths = touched(tmp_path / "in", "a.wav", "sub/b.wav", "sub/c.mp3", "sub/c.wav")
    target = tmp_path / "out"
    first = output.output_to(target, [tmp_path / "in"], "srt")
    for recording in first.missing(recordings(*paths[:3])):
        broken = recording.path.endswith("c.mp3")
        first.write(Transcript(recording.path, "x", 1.0, None, TALK.segments, "cut short" if broken else None))
    first.close()
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*.*")) == ["a.srt", "sub/b.srt"]
    assert (target / "a.srt").read_text() == WRITTEN["srt"] and not caplog.messages
    (target / ".partial-a.srt-0").touch()  # of a kill
    again = output.output_to(target, [tmp_path / "in"], "srt")
    left = list(again.missing(recordings(*paths)))
    assert [Path(recording.path).name for recording in left] == ["c.mp3", "c.wav"]
    for recording in left:
        again.write(Transcript(recording.path, "x", 1.0))
    again.write(Transcript(str(paths[0]), "x", 1.0, channel=1))
    again.close()
    names = ["a.1.srt", "a.srt", "sub/b.srt", "sub/c.mp3.srt", "sub/c.wav.srt"]
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*.*")) == names
    assert caplog.messages == [f"{target}: 2 recordings stood there already; remove a file to have it again"]


def test_recordings_that_would_share_a_file_are_refused_before_anything_is_heard(tmp_path: Path):
    one, other = touched(tmp_path, "one/a.wav", "two/a.wav")
    with pytest.raises(UserError, match="both would be a.wav"):
        output.output_to(tmp_path / "out", [one, other], "text")
    both = output.output_to(tmp_path / "out", [tmp_path], "text")
    assert len(list(both.missing(recordings(one, other)))) == 2
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        output.output_to(tmp_path / "file", [one], "text")


def test_standard_output_holds_several_only_in_formats_that_can(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError, match="holds one recording; give --output DIR"):
        output.output_to(None, ["a.wav", "b.wav"], "srt")
    alone = output.output_to(None, ["talk.wav"], "vtt")
    alone.write(TALK)
    alone.close()
    assert capsys.readouterr().out == WRITTEN["vtt"]
    several = output.output_to(None, ["talk.wav", "b.wav"], "text")
    several.write(TALK)
    several.write(Transcript("b.wav", error="b.wav: no such audio file"))
    several.close()
    assert capsys.readouterr().out == "talk.wav: Hello there. A & B <i>\n"
    told = output.output_to(None, ["talk.wav"], "json")
    told.write(TALK)
    assert capsys.readouterr().out == ""
    told.close()
    assert json.loads(capsys.readouterr().out)["files"][0]["text"] == TALK.text
