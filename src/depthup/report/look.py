"""A look at data before anything is trained: hours, lengths, speakers, characters, odd transcripts, clips to hear."""

from __future__ import annotations

import base64
import io
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import soundfile
from lhotse.cut import Cut

from depthup import files
from depthup.config import DataConfig
from depthup.data import BadAudio, load_cuts, read_audio
from depthup.errors import UserError

HERE = Path(__file__).parent
RATE = 16000
CLIPS, ODD, BARS = 8, 40, 24
UNTOLD = "not told"
APART = 4.0
"""A clip is odd whose characters a second differ from the median by so many times the usual spread."""


@dataclass
class Look:
    """What a source holds."""

    source: str
    seconds: list[float] = field(default_factory=list)
    speakers: Counter[str] = field(default_factory=Counter)
    """Seconds of each speaker."""
    languages: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    odd: list[tuple[str, str, str]] = field(default_factory=list)
    """Clip, text, and why it is suspicious."""
    clips: list[Cut] = field(default_factory=list)
    """Some at random, to hear."""

    @property
    def hours(self) -> float:
        return sum(self.seconds) / 3600

    def told(self) -> str:
        """In one line."""
        whose = f" of {len(self.speakers)} speakers" if set(self.speakers) != {UNTOLD} else ""
        return f"{len(self.seconds)} clips{whose}, {self.hours:.2f} hours, {len(self.odd)} suspicious"


def look_at(source: str, data: DataConfig, seed: int = 0) -> Look:
    """Go through all clips of a source once; their audio is not read. Raises UserError."""
    found, rng = Look(source), random.Random(seed)
    rows: list[tuple[str, str, float]] = []
    for number, cut in enumerate(load_cuts(source, data)):
        told = cut.supervisions[0]
        text = (told.text or "").strip()
        rows.append((cut.id, text, cut.duration))
        found.seconds.append(cut.duration)
        found.characters.update(text)
        found.speakers[told.speaker or UNTOLD] += cut.duration
        found.languages[told.language or UNTOLD] += 1
        if len(found.clips) < CLIPS:
            found.clips.append(cut)
        elif (place := rng.randrange(number + 1)) < CLIPS:  # every clip is as likely to be kept
            found.clips[place] = cut
    found.odd = odd_rows(rows)
    return found


def odd_rows(rows: Sequence[tuple[str, str, float]]) -> list[tuple[str, str, str]]:
    """Clips (id, text, seconds) whose text is too long or short for them, has marks, or comes again and again."""
    rates = [len(text) / seconds for _, text, seconds in rows if seconds > 0]
    middle = statistics.median(rates) if rates else 0.0
    spread = statistics.median(abs(rate - middle) for rate in rates) if rates else 0.0
    texts = Counter(text for _, text, _ in rows)
    odd = []
    for name, text, seconds in rows:
        rate = len(text) / seconds if seconds > 0 else 0.0
        reasons = []
        if spread and abs(rate - middle) > APART * 1.4826 * spread:
            reasons.append(f"{rate:.0f} characters a second, usually {middle:.0f}")
        if any(mark in text for mark in "<>[]{}|"):
            reasons.append("marks in brackets")
        if texts[text] > max(5, len(rows) // 10):
            reasons.append(f"the same text {texts[text]} times")
        if reasons:
            odd.append((name, text, "; ".join(reasons)))
    return odd


def write_look(look: Look, path: Path, data: DataConfig) -> None:
    """One HTML page that needs nothing else. Raises UserError where it cannot be written."""
    speaker, most = look.speakers.most_common(1)[0]
    facts = [
        ("hours", f"{look.hours:.2f}"),
        ("clips", f"{len(look.seconds):,}"),
        ("seconds a clip", _spread(look.seconds)),
        (
            "speakers",
            f"{len(look.speakers)}, the most heard {look.speakers.most_common(1)[0][1] / 36 / look.hours:.0f} %",
        ),
        ("languages", ", ".join(f"{escape(name)} ({count:,})" for name, count in look.languages.most_common(5))),
        ("characters", f"{len(look.characters)}: {escape(''.join(sorted(look.characters)))}"),
        ("suspicious", f"{len(look.odd):,} clips"),
    ]
    odd = "".join(f"<tr><td>{'<td>'.join(map(escape, row))}</tr>" for row in look.odd[:ODD])
    parts = {
        "title": escape(look.source),
        "facts": "".join(f"<tr><th>{name}<td>{told}</tr>" for name, told in facts),
        "lengths": _bars(look.seconds, "seconds"),
        "speakers": _bars([seconds / 60 for seconds in look.speakers.values()], "minutes of a speaker"),
        "odd": odd or "<tr><td>none</tr>",
        "clips": "".join(_clip(cut, data) for cut in look.clips),
    }
    text = (HERE / "look.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    try:
        files.write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --look") from error


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}, half of them below {statistics.median(values):.1f}"


def _bars(values: Sequence[float], unit: str) -> str:
    """A histogram as SVG."""
    low, high = min(values), max(values)
    width = (high - low) / BARS or 1.0
    counts = Counter(min(BARS - 1, int((value - low) / width)) for value in values)
    most = max(counts.values())
    bars = "".join(
        f'<rect x="{20 * n}" y="{100 - 100 * counts[n] / most:.1f}" width="18" height="{100 * counts[n] / most:.1f}">'
        f"<title>{low + n * width:.1f} to {low + (n + 1) * width:.1f} {unit}: {counts[n]}</title></rect>"
        for n in range(BARS)
    )
    ends = (
        f'<text x="0" y="116">{low:.1f}</text><text x="{20 * BARS}" y="116" text-anchor="end">{high:.1f} {unit}</text>'
    )
    return f'<svg viewBox="0 0 {20 * BARS} 120" role="img" aria-label="histogram of {unit}">{bars}{ends}</svg>'


def _clip(cut: Cut, data: DataConfig) -> str:
    told = cut.supervisions[0]
    said = f"<b>{escape(told.text or '')}</b>"
    try:
        file = io.BytesIO()
        soundfile.write(file, read_audio(cut, RATE), RATE, format="FLAC")
    except BadAudio as error:
        return f"<li>{said} <em>{escape(str(error))}</em></li>"
    sound = f"data:audio/flac;base64,{base64.b64encode(file.getvalue()).decode()}"
    whose = escape(f"{told.speaker or ''} {cut.id}")
    return f'<li><audio controls preload="none" src="{sound}"></audio> {said} <small>{whose}</small></li>'
