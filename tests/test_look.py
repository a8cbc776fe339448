"""A look at the data: what is odd is found, what is usual is not, and the page holds all of it."""

from __future__ import annotations

import json
import re

from small_run import save_recordings

from depthup.cli import main
from depthup.report.look import odd_rows

USUAL = [(f"clip-{n}", f"{n:02} " + "word " * (10 + n % 3), 3.0 + 0.1 * (n % 3)) for n in range(60)]


def test_only_odd_transcripts_are_suspicious():
    assert odd_rows(USUAL) == []
    far = [("long", "word " * 200, 3.0), ("short", "w", 9.0), ("marks", "word " * 10 + "<noise>", 3.2)]
    often = [(f"again-{n}", "thank you very much for watching it", 3.0 - 0.6 * (n % 2) / 2) for n in range(12)]
    found = {name: why for name, _, why in odd_rows([*USUAL, *far, *often])}
    assert set(found) == {"long", "short", "marks", *(name for name, *_ in often)}
    assert "characters a second" in found["long"] and "characters a second" in found["short"]
    assert found["marks"] == "marks in brackets" and "12 times" in found["again-0"]


def test_the_page_tells_hours_speakers_and_lets_clips_be_heard(tmp_path, capsys):
    manifest = save_recordings(tmp_path / "audio")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[0]["text"] = "<b>bold</b>"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", str(manifest), "--look", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    told = capsys.readouterr().out
    assert f"{len(rows)} clips of 2 speakers" in told and "0.00 hours, 1 suspicious" in told
    assert main(["data", str(manifest)]) == 0  # without a page the line alone
    assert capsys.readouterr().out.split(": ")[0] == told.split(": ")[0]
    assert page.count("data:audio/flac;base64,") == 8 and "<b>bold" not in page and "&lt;b&gt;bold" in page
    assert not re.search(r"<!--\w+-->|https?://", page)
    assert main(["data", "--look", str(tmp_path / "page.html")]) == 2
