"""Every clip of a test set as it was said and as it was heard, the worst first: JSONL, and a page to listen to."""

from __future__ import annotations

import json
import os
import re
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jiwer

from depthup import files
from depthup.evaluate.results import source_name
from depthup.evaluate.scores import AsrReport, Heard

PAGE = Path(__file__).with_name("clips.html")
MOST_SHOWN = 1000
"""Clips on the page; the JSONL has all."""


def file_name(source: str) -> str:
    """A name for the files about a test set: `fsdd-test` for `../speech/fsdd/test.jsonl`."""
    return re.sub(r"[^\w.-]+", "-", source_name(source)).strip("-.") or "clips"


def write_clips(report: AsrReport, source: str, directory: Path) -> list[Path]:
    """Write NAME.jsonl and NAME.html, with NAME of `file_name`; earlier ones are replaced. Raises UserError."""
    name = file_name(source)
    ranked = sorted(report.examples, key=_badness)
    found = {f"{name}.jsonl": _lines(report, ranked), f"{name}.html": _page(report, ranked, source, directory)}
    with files.made(directory):
        for file, text in found.items():
            files.write_text(directory / file, text)
    return [directory / file for file in found]


def _badness(clip: Heard) -> tuple[int, float, str]:
    """Most errors first; of as many, the shorter text."""
    assert clip.edits is not None
    return -clip.edits.errors, clip.edits.words, clip.id


def _lines(report: AsrReport, ranked: list[Heard]) -> str:
    rows: list[dict[str, Any]] = []
    for clip in ranked:
        assert clip.edits is not None
        told = {**vars(clip.edits), "errors": clip.edits.errors}
        told |= {"normalized_reference": told.pop("reference"), "normalized_hypothesis": told.pop("hypothesis")}
        rows.append({**{name: value for name, value in vars(clip).items() if name != "edits"}, **told})
    rows += [{"id": name, "unusable": why} for name, why in report.unusable]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _page(report: AsrReport, ranked: list[Heard], source: str, directory: Path) -> str:
    wrong = sum(1 for clip in ranked if clip.edits and clip.edits.errors)
    rate = "no word was said" if report.wer != report.wer else f"WER {report.wer:.1%}"
    languages = "; ".join(f"{code}: {how.normalizer}, by {how.unit}" for code, how in report.languages.items())
    summary = f"{rate}, {wrong} of {len(ranked)} clips with errors. Compared by: {languages}."
    if len(ranked) > MOST_SHOWN:
        summary += f" The {MOST_SHOWN} worst are shown."
    parts = {
        "title": escape(source_name(source)),
        "summary": escape(summary),
        "unusable": "".join(f"<li>{escape(why)}</li>" for _, why in report.unusable),
        "clips": "".join(_row(clip, directory) for clip in ranked[:MOST_SHOWN]),
    }
    text = PAGE.read_text(encoding="utf-8")
    # In one pass, so that no text of a clip is taken for a mark.
    return re.sub(r"<!--(\w+)-->", lambda mark: parts[mark[1]], text)


def _row(clip: Heard, directory: Path) -> str:
    assert clip.edits is not None
    about = [clip.id, *(f"{name}: {value}" for name, value in clip.fields.items())]
    return (
        f'<article><div class="count">{clip.edits.errors}<small>of {clip.edits.words}</small></div><div>'
        f'<p class="compared">{_compared(clip)}</p>'
        f"<p><b>said</b> {escape(clip.reference)}</p><p><b>heard</b> {escape(clip.hypothesis)}</p>"
        f'{_player(clip, directory)}<p class="quiet">{escape(" · ".join(about))}</p></div></article>\n'
    )


def _player(clip: Heard, directory: Path) -> str:
    if clip.audio is None:
        return ""
    try:
        where = os.path.relpath(clip.audio, directory)
    except ValueError:  # on another drive
        where = clip.audio
    span = f"#t={clip.start:.3f},{clip.start + clip.duration:.3f}"
    return f'<audio controls preload="none" src="{escape(quote(os.fsencode(where)))}{span}"></audio>'


def _compared(clip: Heard) -> str:
    """The two texts as they were compared, in one, with what differs marked."""
    assert clip.edits is not None
    said, heard = clip.edits.reference.split(), clip.edits.hypothesis.split()
    if not said:
        return f"<ins>{escape(' '.join(heard))}</ins>" if heard else '<span class="quiet">nothing said or heard</span>'
    found = []
    for chunk in jiwer.process_words(clip.edits.reference, clip.edits.hypothesis).alignments[0]:
        before = escape(" ".join(said[chunk.ref_start_idx : chunk.ref_end_idx]))
        after = escape(" ".join(heard[chunk.hyp_start_idx : chunk.hyp_end_idx]))
        if chunk.type == "equal":
            found.append(before)
        else:
            found += [f"<del>{before}</del>"] * bool(before) + [f"<ins>{after}</ins>"] * bool(after)
    return " ".join(found)
