"""One Lhotse Shar shard, of audio or of speech tokens: written beside its place, hashed, and moved there whole."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from lhotse.shar.writers import ArrayTarWriter, AudioTarWriter
from lhotse.utils import fastcopy

from depthup import files
from depthup.data.audio import AnyAudio, BadAudio, audio_file, read_audio, say_once
from depthup.data.reader import describe
from depthup.data.shar import PARTIAL, SHARDS, shard_files
from depthup.data.shard_index import index_shard
from depthup.data.tokens import tokenize
from depthup.data.transcripts import PROMPT, check_prompt, check_text
from depthup.errors import UserError

# Lhotse notes in these where a cut was read from.
READ_FROM = ("shard_origin", "shar_epoch")


MOST_RATE = 655_350
"""Hz of FLAC."""
LOUD = 1.1
"""Of full scale; resampling alone goes a little beyond 1."""


@dataclass
class Written:
    """What is in a shard; one without a usable clip has no files."""

    number: int
    clips: int = 0
    seconds: float = 0.0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each file's name its `sha256` and `bytes`."""
    clipped: int = 0
    """Clips with samples beyond full scale, which FLAC cuts off."""
    speakers: dict[str, int] = field(default_factory=dict)
    """Clips of each speaker."""
    languages: dict[str, float] = field(default_factory=dict)
    """Seconds of each language."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Of each bad clip the kind of mistake, and a line that names the clip and what is wrong with it."""

    def add(self, cut: MonoCut, samples: np.ndarray) -> None:
        self.clips += 1
        self.seconds += cut.duration
        self.clipped += bool(np.abs(samples).max() > 1)
        supervision = cut.supervisions[0]
        if supervision.speaker:
            self.speakers[supervision.speaker] = self.speakers.get(supervision.speaker, 0) + 1
        if supervision.language:
            self.languages[supervision.language] = self.languages.get(supervision.language, 0.0) + cut.duration

    def skip(self, cut: Cut, error: UserError) -> None:
        line = str(error) if str(error).startswith(cut.id) else f"{cut.id}: {error}"
        what = str(error).removeprefix(f"{(isinstance(error, BadAudio) and audio_file(cut)) or cut.id}: ")
        # What messages about many clips share: "cannot read the audio", "N s of audio where ...".
        kind = re.sub(r"\d+(\.\d+)?", "N", re.split(r"[;(]", what)[0].strip())
        self.skipped.append((kind, line))


@dataclass(frozen=True)
class ShardWriter:
    """Writes shards to `root`; a function that other processes can be given."""

    root: Path
    sampling_rate: int
    text_field: str
    strict: bool
    tokenizer: Optional[str] = None
    """Directory of a speech tokenizer, whose tokens are written instead of audio."""

    def __call__(self, number: int, cuts: list[Cut]) -> Written:
        """Write the clips that can be used as shard `number`. Raises UserError at a bad clip if strict."""
        shard = Written(number)
        partial, final = self.root / PARTIAL, self.root / SHARDS
        with tempfile.TemporaryDirectory(prefix=files.PARTIAL, dir=partial) as place:
            data_name, cuts_name = shard_files(number, self.tokenizer is not None)
            rows = []
            # Its own name for the file: it takes `%` for the shard's number, which may stand in the path too.
            pattern = f"{place.replace('%', '%%')}/{data_name.partition('.')[0]}.%06d.tar"
            sizes: dict[str, Any] = {"shard_size": len(cuts), "shard_offset": number}
            with (
                ArrayTarWriter(pattern, **sizes)
                if self.tokenizer
                else AudioTarWriter(pattern, format="flac", **sizes) as tar
            ):
                for cut in cuts:
                    try:
                        clip, samples = self._clip(cut)
                        content = self._content(clip, samples)
                    except UserError as error:
                        if self.strict:
                            raise
                        shard.skip(cut, error)
                        continue
                    tar.write(clip.id, *content)
                    rows.append(json.dumps(clip.to_dict(), ensure_ascii=False, default=str) + "\n")
                    shard.add(clip, samples)
            if shard.clips:
                # Not Lhotse's writer: gzip would note the time and the name.
                Path(place, cuts_name).write_bytes(gzip.compress("".join(rows).encode(), mtime=0))
                np.save(partial / f"{number:06d}.npy", index_shard(f"{place}/{cuts_name}", f"{place}/{data_name}"))
                for name in (data_name, cuts_name):
                    path = Path(place, name)
                    shard.files[name] = {"sha256": files.sha256(path), "bytes": path.stat().st_size}
                    files.move(path, final / name)
            files.write_json(partial / f"{number:06d}.json", asdict(shard))
        return shard

    def _content(self, clip: MonoCut, samples: np.ndarray) -> tuple[Any, ...]:
        """What the writer of the tar takes: audio, or tokens, which leave the clip without a recording."""
        if self.tokenizer is None:
            return samples[None], clip.sampling_rate, clip.recording
        clip.recording = None
        return tokenize(self.tokenizer, samples)

    def _clip(self, cut: Cut) -> tuple[MonoCut, np.ndarray]:
        """The cut as it will be read from the shard, and its samples. Raises UserError for a bad one."""
        if len(cut.supervisions) != 1:
            raise UserError(f"{cut.id}: not one supervision; run CutSet.trim_to_supervisions() on the manifest")
        (supervision,) = cut.supervisions
        check_text(supervision.text, cut.id, self.text_field)
        check_prompt((supervision.custom or {}).get(PROMPT), cut.id)
        rate = self.sampling_rate or _own_rate(cut)
        if rate > MOST_RATE:
            raise UserError(f"{cut.id}: comes at {rate} Hz, and FLAC at {MOST_RATE} at most; give --sampling-rate")
        samples = read_audio(cut, rate)
        peak = float(np.abs(samples).max())
        if self.tokenizer is None and peak > LOUD:
            say_once(f"{cut.id}: reaches {peak:.1f} times full scale, which FLAC cuts off; make it quieter")
        name = cut.id.replace("/", "_")  # it becomes a file's name
        duration = len(samples) / rate
        source = AudioSource("shar", channels=[0], source="")
        clip = MonoCut(
            id=name,
            start=0.0,
            duration=duration,
            channel=0,
            supervisions=[_whole(supervision, name, cut.duration, duration)],
            recording=Recording(name, [source], rate, num_samples=len(samples), duration=duration),
            custom=_plain(getattr(cut, "custom", None) or {}),
        )
        return clip, samples


def _whole(supervision: SupervisionSegment, name: str, was: float, duration: float) -> SupervisionSegment:
    """One that spanned the clip still does, although the samples may have come out a fraction longer."""
    spans = supervision.start == 0 and supervision.duration == was
    changes = {"duration": duration} if spans else {}
    return fastcopy(supervision, recording_id=name, channel=0, **changes)


def _plain(custom: dict[str, Any]) -> dict[str, Any] | None:
    """A cut's own fields without Lhotse's arrays and recordings, whose data would have to be stored too."""
    kinds = (str, int, float, bool, list, dict)
    return {k: v for k, v in custom.items() if k not in READ_FROM and isinstance(v, kinds)} or None


def _own_rate(cut: Cut) -> int:
    """Hz. Cuts that we made know it only from the file."""
    source = cut.recording.sources[0] if isinstance(cut, MonoCut) and cut.recording else None
    if not isinstance(source, AnyAudio):
        return cut.sampling_rate
    try:
        return describe(source.source).rate  # type: ignore[arg-type]
    except BadAudio:
        return cut.sampling_rate  # reading it will say what is wrong
