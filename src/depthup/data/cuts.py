"""From whatever people have to Lhotse cuts, one transcribed clip each, read lazily."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Union

import numpy as np
from lhotse import CutSet, MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.cut import Cut
from lhotse.lazy import count_newlines_fast
from lhotse.serialization import deserialize_item

from depthup import files
from depthup.config import DataConfig
from depthup.data.audio import audio_duration, audio_file, make_cut
from depthup.data.folders import find_layout
from depthup.data.given import PREFIX, Given, encoded, find_given
from depthup.data.hub_datasets import datasets_library, open_dataset
from depthup.data.manifest import CHANNELS, SUFFIXES, Stretch, rows, take_audio, take_stretch
from depthup.data.mixing import Source, Sources
from depthup.data.shar import is_shar, open_shar
from depthup.data.spool import Spool
from depthup.data.transcripts import PROMPT, check_characters, check_prompt, check_text
from depthup.errors import UserError

log = logging.getLogger("depthup")

Texts = Literal["words", "any", "unchecked"]
# What `datasets` calls an audiofolder: a table beside the recordings, with their paths in `file_name`.
AUDIOFOLDER_TABLES = ("metadata.jsonl", "metadata.csv")
# `lhotse prepare` writes pairs of manifests whose names differ in one word.
SUPERVISIONS, RECORDINGS = "_supervisions", "_recordings"
FIRST_CLIPS = 10


def load_cuts(source: Union[str, Sequence[str]], config: DataConfig, texts: Texts = "words") -> CutSet:
    """Cuts of a source, or of several one after the other; lazy, and iterable again and again.

    Sources: a JSONL manifest or CSV table (`audio`, relative to the manifest, `text`, optional `start`, `duration`,
    `end`, `channel`, `speaker`, `language`, or NeMo's and Kaldi's names of these; other fields go into
    `supervision.custom`), a folder in one of `depthup.data.folders.LAYOUTS`, a Lhotse cut manifest or Shar directory,
    Lhotse supervisions with the recordings beside them,
    what `depthup data` wrote, here or elsewhere (see `depthup.data.shar.open_shar`), a Hugging Face dataset
    (`name:split`, `owner/name:split`, `owner/name/config:split`), or a local directory of one (`dir`, `dir:split`)
    saved by `save_to_disk`, of Parquet files, or of recordings with `metadata.csv`.

    Every cut has one supervision with a text: what is said, or the answer to the `prompt` in `supervision.custom`. It
    holds words unless `texts` says otherwise: `any` lets it be empty, where nothing was said, and `unchecked` lets it
    be missing.
    A file whose header is asked for its duration and cannot be read gives a cut too: `read_audio` raises `BadAudio`.

    Raises `UserError`, here or while iterating, naming the source, line or field that is wrong.
    """
    return CutSet(load_sources(source, config, texts))


def load_sources(source: Union[str, Sequence[str]], config: DataConfig, texts: Texts = "words") -> Sources:
    """The same without Lhotse's wrapping. Raises UserError."""
    sources = [source] if isinstance(source, str) else list(source)
    if not sources:
        raise UserError("data: no recordings are given; name a manifest, e.g. data.train: train.jsonl")
    return Sources(tuple(_load_one(one, config, texts) for one in sources))


def fields_of(cut: Cut) -> dict[str, str]:
    """What a clip can be grouped by: the simple values of its manifest line."""
    told = cut.supervisions[0]
    known = {"speaker": told.speaker, "language": told.language, "gender": told.gender}
    known |= (getattr(cut, "custom", None) or {}) | (told.custom or {})
    return {name: str(value) for name, value in known.items() if isinstance(value, (str, int, float))}


def check_rows(sources: Sources) -> None:
    """Look at every row of manifests and tables; what is streamed is looked at as it comes. Raises UserError."""
    for part in sources.parts:
        if isinstance(part, ManifestCuts):
            part.check()


def _load_one(source: str, config: DataConfig, texts: Texts) -> Source:
    path = Path(source).expanduser()
    cuts: Source
    if source.startswith(PREFIX):
        return _given_cuts(find_given(source), source, config, texts)
    if is_shar(source):
        cuts = open_shar(source, partial(_checked, where=source, texts=texts), config.strict)
    elif (layout := find_layout(path)) is not None:
        _tell_once(f"{source}: {layout.told()}")
        cuts = RowCuts(layout.rows, source, replace(config, audio_field="audio", text_field="text"), texts)
    elif path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise UserError(f"{source}: not a manifest; give a .jsonl file with one clip a line")
        if SUPERVISIONS in path.name:
            cuts = SupervisionCuts(path, texts)
        else:
            cuts = ManifestCuts(path, config, texts)
    elif table := next((path / name for name in AUDIOFOLDER_TABLES if (path / name).is_file()), None):
        cuts = ManifestCuts(table, replace(config, audio_field="file_name"), texts)
    else:
        cuts = _dataset_cuts(open_dataset(source), source, config, texts)
    _check_first(cuts, source)
    return cuts


@cache
def _tell_once(line: str) -> None:
    """A source is opened more than once in a training."""
    log.warning(line)


def _given_cuts(given: Given, source: str, config: DataConfig, texts: Texts) -> Source:
    if hasattr(given, "cast_column"):
        return _dataset_cuts(given, source, config, texts)
    return RowCuts(given, source, config, texts)


def _check_first(cuts: Source, source: str) -> None:
    """A look at the first clips finds most mistakes before anything long begins."""
    first = list(islice(cuts, FIRST_CLIPS))
    if not first:
        raise UserError(f"{source}: no clips in it; give a manifest with one clip a line")
    recordings = [audio_file(cut) for cut in first]
    if not any(file is None or file.exists() for file in recordings):
        raise UserError(f"{first[0].id}: no such audio file: {recordings[0]}; correct the path")


@dataclass(frozen=True)
class ManifestCuts:
    """The cuts of a JSONL manifest, ours or Lhotse's, or of a CSV table, read line by line at each iteration."""

    path: Path
    config: DataConfig
    texts: Texts

    def __iter__(self) -> Iterator[Cut]:
        for where, fields in rows(self.path):
            yield self._cut(fields, where)

    def fingerprint(self) -> str:
        return files.sha256(self.path)

    def check(self) -> None:
        """Look at every row, without asking a recording for its length. Raises UserError."""
        for where, fields in rows(self.path):
            self._cut(fields, where, measure=False)

    def num_clips(self) -> int:
        """About how many: the lines of the file."""
        return count_newlines_fast(self.path)

    def clips(self) -> Spool:
        """By number; reads the manifest once, and the headers of recordings whose duration it does not state."""
        return Spool(self)

    def _cut(self, fields: dict[str, Any], where: str, measure: bool = True) -> Cut:
        if str(fields.get("type")).endswith("Cut") and "id" in fields:
            return _checked(_lhotse_cut(fields, where), where, self.texts)
        # An empty cell of a table says nothing, but that nothing was said.
        fields = {name: value for name, value in fields.items() if value != "" or name == self.config.text_field}
        path = self.path.parent / os.path.expanduser(take_audio(fields, self.config, where))
        stretch = take_stretch(fields, self.config, where)
        total = audio_duration(path) if stretch.duration is None and measure else None
        return _cut_from_fields(fields, where, path, stretch, total, self.config, self.texts)


@dataclass(frozen=True)
class RowCuts:
    """The cuts of a list of dicts with the fields of a manifest; audio is a path, bytes, or array and rate."""

    rows: Sequence[Mapping[str, Any]]
    source: str
    config: DataConfig
    texts: Texts

    def __iter__(self) -> Iterator[Cut]:
        for number, row in enumerate(self.rows):
            fields, where = dict(row), f"{self.source}:{number}"
            audio = encoded(fields.pop(self.config.audio_field, None), where, self.config.audio_field)
            stretch = take_stretch(fields, self.config, where)
            total = audio_duration(audio) if stretch.duration is None else None
            yield _cut_from_fields(fields, where, audio, stretch, total, self.config, self.texts)

    def num_clips(self) -> int:
        return len(self.rows)

    def clips(self) -> Spool:
        """By number; reads the headers of recordings whose duration no row states."""
        return Spool(self)

    def fingerprint(self) -> str:
        return self.source


@dataclass(frozen=True)
class SupervisionCuts:
    """A cut of each segment in a `*_supervisions_*.jsonl.gz`, as `lhotse prepare` writes it beside the recordings.

    The recordings are held as text while iterating, some 500 bytes each, for the two files differ in order.
    """

    path: Path
    texts: Texts

    def __iter__(self) -> Iterator[Cut]:
        recordings = {fields.get("id"): json.dumps(fields) for _, fields in rows(self._recordings)}
        for where, fields in rows(self.path):
            try:
                segment = SupervisionSegment.from_dict(fields)
                recording = Recording.from_dict(json.loads(recordings[segment.recording_id]))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{where}: not a segment of a recording in {self._recordings} ({error!r})") from error
            kind = MonoCut if isinstance(segment.channel, int) else MultiCut
            place: dict[str, Any] = {"start": segment.start, "duration": segment.duration, "channel": segment.channel}
            supervisions = [segment.with_offset(-segment.start)]
            cut = kind(id=segment.id, **place, recording=recording, supervisions=supervisions)
            yield _checked(cut, where, self.texts)

    def num_clips(self) -> int:
        """About how many: the lines of the file."""
        return count_newlines_fast(self.path)

    def clips(self) -> Spool:
        """By number; reads both files once."""
        return Spool(self)

    def fingerprint(self) -> str:
        return files.sha256(self.path) + files.sha256(self._recordings)

    @property
    def _recordings(self) -> Path:
        return self.path.with_name(self.path.name.replace(SUPERVISIONS, RECORDINGS))


def _dataset_cuts(dataset: Any, source: str, config: DataConfig, texts: Texts) -> DatasetCuts:
    for option in ["audio_field"] if texts == "unchecked" else ["audio_field", "text_field"]:
        if (column := getattr(config, option)) not in dataset.column_names:
            columns = ", ".join(dataset.column_names)
            raise UserError(f"{source}: no column `{column}`; set data.{option} to one of {columns}")
    undecoded = dataset.cast_column(config.audio_field, datasets_library(source).Audio(decode=False))
    return DatasetCuts(undecoded, source, config, texts)


@dataclass(frozen=True)
class DatasetCuts:
    """The cuts of a Hugging Face dataset; each holds the encoded bytes of its clip, or its path.

    `dataset` has its audio column undecoded: a dict of `bytes` and `path`.
    """

    dataset: Any
    source: str
    config: DataConfig
    texts: Texts

    def __iter__(self) -> Iterator[Cut]:
        return (self._cut(row, item) for row, item in enumerate(self.dataset))

    def num_clips(self) -> int:
        return len(self.dataset)

    def clips(self) -> DatasetCuts:
        """Itself."""
        return self

    def fingerprint(self) -> str:
        """Of the durations: a dataset's own hash depends on where it lies."""
        return sha256(self.seconds.tobytes()).hexdigest()

    @cached_property
    def seconds(self) -> np.ndarray:
        """Duration [clips] of each clip, for which the headers of all are read once."""
        return np.array([cut.duration for cut in self], dtype=np.float32)

    @property
    def shard_sizes(self) -> np.ndarray:
        return np.array([len(self.dataset)])

    def cut(self, number: int) -> Cut:
        return self._cut(number, self.dataset[number])

    def _cut(self, row: int, item: dict[str, Any]) -> Cut:
        where = f"{self.source}:{row}"
        item = {name: value for name, value in item.items() if name not in self.config.ignore_fields}
        content = item.pop(self.config.audio_field)
        if content is None or (content["bytes"] is None and content["path"] is None):
            raise UserError(f"{where}: the row has no audio; filter it out of the dataset")
        audio = content["bytes"] if content["bytes"] is not None else Path(content["path"])
        stretch = Stretch(0.0, None, CHANNELS[self.config.channel])
        return _cut_from_fields(item, where, audio, stretch, audio_duration(audio), self.config, self.texts)


def _cut_from_fields(
    fields: dict[str, Any],
    where: str,
    audio: Union[Path, bytes],
    stretch: Stretch,
    total: float | None,
    config: DataConfig,
    texts: Texts,
) -> Cut:
    """A cut of the fields of a row; `total` is the length of the recording where the row does not state the clip's."""
    check_characters(fields, where)
    text = fields.pop(config.text_field, None)
    if texts != "unchecked":
        check_text(text, where, config.text_field, texts == "any")
        check_prompt(fields.get(PROMPT), where)
    speaker, language = (_word(fields.pop(name, None)) for name in ("speaker", "language"))
    duration = stretch.duration
    if duration is None:
        # An unreadable file stays in, at a length no filter drops, so that whoever reads it can count and name it.
        duration = config.min_duration if total is None else max(total - stretch.start, 0.0)
    whole = stretch.duration is None and total is not None
    return make_cut(where, audio, text, stretch.start, duration, speaker, language, fields, stretch.channel, whole)


def _word(value: Any) -> str | None:
    """The name of a speaker or language, which may be written as a number."""
    return None if value is None or value == "" else str(value)


def _lhotse_cut(fields: dict[str, Any], where: str) -> Cut:
    try:
        return deserialize_item(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: not a cut that Lhotse can read ({error!r})") from error


def _checked(cut: Cut, where: str, texts: Texts) -> Cut:
    """A cut of a Lhotse manifest, when it is one transcribed clip."""
    if texts != "unchecked":
        if len(cut.supervisions) != 1:
            raise UserError(
                f"{where}: cut {cut.id} has {len(cut.supervisions)} supervisions instead of one; "
                f"run CutSet.trim_to_supervisions() on the manifest"
            )
        (told,), place = cut.supervisions, f"{where}: cut {cut.id}"
        check_text(told.text, place, may_be_empty=texts == "any")
        check_prompt((told.custom or {}).get(PROMPT), place)
    return cut
