"""Folders as people have them, understood without a script: what lies where, and what is left out."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from depthup.data.decoders import SUFFIXES
from depthup.errors import UserError

Row = dict[str, Any]
NAMED = 3
"""Of what is left out, so many are named."""


@dataclass
class Layout:
    """A folder's clips, as the rows of a manifest, and what of it is none."""

    name: str
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """For each thing that is no clip, what and why."""

    def told(self) -> str:
        """One line of what was found and left out."""
        speakers = {row["speaker"] for row in self.rows if row.get("speaker")}
        line = f"read as {self.name}: {len(self.rows)} clips" + (f" of {len(speakers)} speakers" if speakers else "")
        if not self.left_out:
            return line
        more = "" if len(self.left_out) <= NAMED else ", ..."
        return f"{line}; left out {len(self.left_out)}: {', '.join(self.left_out[:NAMED])}{more}"


def find_layout(path: Path) -> Optional[Layout]:
    """What a folder (or a table of Common Voice's) holds, by the first of `LAYOUTS` that fits; None where none does.

    Raises UserError for a folder that fits and cannot be read.
    """
    for read in LAYOUTS.values():
        if (layout := read(path)) is not None:
            return layout
    return None


def kaldi(folder: Path) -> Optional[Layout]:
    """A Kaldi data directory: `wav.scp` and `text`, with `segments` and `utt2spk` where they are."""
    if not (folder / "wav.scp").is_file() or not (folder / "text").is_file():
        return None
    layout = Layout("a Kaldi directory")
    recordings = dict(_pairs(folder / "wav.scp"))
    speakers = dict(_pairs(folder / "utt2spk")) if (folder / "utt2spk").is_file() else {}
    segments: dict[str, list[str]] = {}
    if (folder / "segments").is_file():
        segments = {name: rest.split() for name, rest in _pairs(folder / "segments")}
    for name, text in _pairs(folder / "text"):
        recording, *times = segments.get(name, [name])
        source = recordings.get(recording)
        if source is None or (segments and name not in segments):
            layout.left_out.append(f"{name} (not in {'segments' if segments and source is None else 'wav.scp'})")
        elif source.endswith("|"):
            layout.left_out.append(f"{name} (its recording is a command, not a file)")
        elif not text:
            layout.left_out.append(f"{name} (no text)")
        else:
            row: Row = {"audio": str(_kaldi_audio(folder, source)), "text": text}
            if times:
                row |= {"start": float(times[0]), "end": float(times[1])}
            layout.rows.append(row | ({"speaker": speakers[name]} if name in speakers else {}))
    return layout


def _kaldi_audio(folder: Path, source: str) -> Path:
    """Paths of `wav.scp` are relative to where Kaldi's recipe runs: here, or not far above; ours to the directory."""
    places = (folder, Path(), folder.parent, folder.parent.parent)
    return next((place / source for place in places if (place / source).is_file()), folder / source)


def librispeech(folder: Path) -> Optional[Layout]:
    """LibriSpeech and its like: `SPEAKER-CHAPTER.trans.txt` beside `SPEAKER-CHAPTER-NUMBER.flac`, at any depth."""
    transcripts = sorted(folder.rglob("*.trans.txt")) if folder.is_dir() else []
    if not transcripts:
        return None
    layout = Layout("a LibriSpeech tree")
    for transcript in transcripts:
        recordings = {path.stem: path for path in _recordings(transcript.parent)}
        for name, text in _pairs(transcript):
            if (audio := recordings.pop(name, None)) is None:
                layout.left_out.append(f"{name} (no recording)")
            else:
                layout.rows.append({"audio": str(audio), "text": text, "speaker": name.split("-")[0]})
        layout.left_out += [f"{path.name} (no text)" for path in recordings.values()]
    return layout


def common_voice(path: Path) -> Optional[Layout]:
    """Common Voice: a table such as `train.tsv` with `path` and `sentence`, its recordings in `clips` beside it."""
    tables = [path] if path.suffix == ".tsv" else sorted(path.glob("*.tsv")) if path.is_dir() else []
    tables = [t for t in tables if (t.parent / "clips").is_dir() and {"path", "sentence"} <= set(_header(t, "\t"))]
    if not tables:
        return None
    if len(tables) > 1:
        names = ", ".join(str(table) for table in tables)
        raise UserError(f"{path}: holds several tables of Common Voice; name one: {names}")
    layout = Layout(f"Common Voice's {tables[0].name}")
    with tables[0].open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            audio = tables[0].parent / "clips" / line["path"]
            if not audio.is_file():
                layout.left_out.append(f"{line['path']} (no recording)")
                continue
            told = {"speaker": line.get("client_id"), "language": line.get("locale")}
            told |= {name: line.get(name) for name in ("age", "gender", "accents")}
            known = {name: value for name, value in told.items() if value}
            layout.rows.append({"audio": str(audio), "text": line["sentence"], **known})
    return layout


def ljspeech(folder: Path) -> Optional[Layout]:
    """LJSpeech: `metadata.csv` with `NAME|text|text in words`, its recordings in `wavs` or beside it."""
    table = folder / "metadata.csv"
    if not table.is_file() or "|" not in table.read_text(encoding="utf-8-sig").split("\n", 1)[0]:
        return None
    layout = Layout("LJSpeech's metadata.csv")
    recordings = {path.stem: path for path in [*_recordings(folder), *_recordings(folder / "wavs")]}
    for line in table.read_text(encoding="utf-8-sig").splitlines():
        name, *texts = line.split("|")
        audio, text = recordings.pop(Path(name).stem, None), next((t for t in reversed(texts) if t.strip()), "")
        if audio is None or not text:
            layout.left_out.append(f"{name} (no {'recording' if audio is None else 'text'})")
        else:
            layout.rows.append({"audio": str(audio), "text": text})
    layout.left_out += [f"{path.name} (no text)" for path in recordings.values()]
    return layout


def beside(folder: Path) -> Optional[Layout]:
    """Each recording's transcript in a text file of the same name beside it, at any depth."""
    recordings = sorted(_recordings(folder, deep=True)) if folder.is_dir() else []
    texts = {path: path.with_suffix(".txt") for path in recordings}
    if not any(text.is_file() for text in texts.values()):
        return None
    layout = Layout("recordings with a .txt beside each")
    for audio, text in texts.items():
        said = " ".join(text.read_text(encoding="utf-8-sig").split()) if text.is_file() else ""
        if said:
            layout.rows.append({"audio": str(audio), "text": said})
        else:
            layout.left_out.append(f"{audio.name} ({'an empty' if text.is_file() else 'no'} {text.name})")
    return layout


LAYOUTS: dict[str, Callable[[Path], Optional[Layout]]] = {
    "kaldi": kaldi,
    "librispeech": librispeech,
    "common_voice": common_voice,
    "ljspeech": ljspeech,
    "beside": beside,
}
"""Every layout that is understood, in the order in which they are tried."""


def _recordings(folder: Path, deep: bool = False) -> list[Path]:
    found = folder.rglob("*") if deep else folder.glob("*")
    return [path for path in found if path.suffix.lower() in SUFFIXES]


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """The first word of each line, and the rest."""
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name, rest.strip()


def _header(path: Path, separator: str) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        return next(lines, "").rstrip("\r\n").split(separator)
