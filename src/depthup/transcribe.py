"""Audio in, text out: batches of any mix of lengths, long recordings, files and folders."""

from __future__ import annotations

import io
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import soundfile
import soxr
import torch

from depthup.decode import can_draft, decode, is_greedy
from depthup.errors import UserError
from depthup.model.cpu_kernels import fast_kernels
from depthup.model.ctc_head import spell

log = logging.getLogger("depthup")
T = TypeVar("T")

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
"""What counts as a recording in a folder; a file named outright may have any name."""
BATCH_SECONDS = {"cuda": 1200.0}
"""Audio in a batch by kind of device, 120 s on others: a GPU's pass costs about the same for one row and for many."""
BATCHES_IN_GROUP = 8
"""Batches that are read together, so that each may hold recordings of like length."""
GUESSED_AT_ONCE = {"cpu": 8}
"""Tokens of a draft that are verified in one pass, by kind of device, all of them on others."""
MAX_SECONDS = 28.0
"""Longest piece of a recording that the model hears at once."""
FRAME_SECONDS = 0.02
PAUSE_FRAMES = 15


@dataclass
class Segment:
    """A stretch of a recording, in seconds, and what was said in it."""

    start: float
    end: float
    text: str


@dataclass
class Transcript:
    """What was said in one recording; `error` is the one line that says why there is no text."""

    path: str
    text: str = ""
    duration: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    error: str | None = None


@contextmanager
def inference(*models: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is back in the mode it was in."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def transcribe_batch(
    model: Any,
    processor: Any,
    audio: Sequence[np.ndarray],
    batch_seconds: float | None = None,
    max_new_tokens: int | None = None,
    num_beams: int = 1,
    drafts: bool | None = None,
) -> list[str]:
    """Transcribe clips of any mix of lengths, without sampling.

    `audio` holds mono waveforms [samples] at the processor's rate; a batch holds at most `batch_seconds` of them,
    padding included (a longer clip goes alone), by default 120 s or on a GPU 1200, and is halved where memory ends.
    `max_new_tokens` bounds each clip's text; by default 16 and 12 per second, which speech does not reach but an
    endless loop does. With `drafts` the CTC head guesses and the LLM verifies, which gives the same text in fewer
    passes; by default for clips alone and on GPUs. Returns one text per clip, in the order given.
    """
    seconds = [len(clip) / processor.sampling_rate for clip in audio]
    limits = [max_new_tokens or 16 + math.ceil(12 * length) for length in seconds]
    texts = [""] * len(audio)
    batches = list(batches_of_like_length(seconds, batch_seconds or default_batch_seconds(model)))
    with inference(model), fast_kernels(model.device):
        while batches:
            batch = batches[0]
            try:
                # Each clip is cut at its own limit, so that its text does not depend on its neighbours.
                found = _hear(
                    model, processor, [audio[i] for i in batch], [limits[i] for i in batch], num_beams, drafts
                )
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                log.warning("%d clips at once are too much for the memory: going on with half as many", len(batch))
                batches = [half for b in batches for half in (b[: len(b) // 2], b[len(b) // 2 :]) if half]
                continue
            for i, text in zip(batches.pop(0), found, strict=True):
                texts[i] = text.strip()
    return texts


def default_batch_seconds(model: Any) -> float:
    """Seconds of audio in a batch where nothing else is asked for."""
    return BATCH_SECONDS.get(model.device.type, 120.0)


def _hear(
    model: Any,
    processor: Any,
    clips: list[np.ndarray],
    limits: list[int],
    num_beams: int,
    drafts: bool | None,
) -> list[str]:
    """The texts of one batch."""
    prompts = processor.prompt_batch(clips, device=str(model.device))
    inputs = {k: v.to(model.device) for k, v in prompts.items()}
    if num_beams == 1 and is_greedy(model):
        # On a CPU a pass costs as much as its tokens, and waits for the row with the worst guess.
        wanted = drafts if drafts is not None else len(clips) == 1 or model.device.type != "cpu"
        guess = partial(_guesses, processor) if wanted and can_draft(model) else None
        at_once = GUESSED_AT_ONCE.get(model.device.type)
        kept = decode(model, inputs, limits, guess, processor.word_starts, at_once).tokens
    else:
        ids = model.generate(**inputs, max_new_tokens=max(limits), do_sample=False, num_beams=num_beams)
        new = ids[:, inputs["input_ids"].shape[1] :].tolist()
        kept = [row[:limit] for row, limit in zip(new, limits, strict=True)]
    return processor.tokenizer.batch_decode(kept, skip_special_tokens=True)


def _guesses(processor: Any, log_probs: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    """Tokens of what the CTC head spells."""
    return [processor.answer_ids(text) if text else [] for text in spell(log_probs, lengths)]


def batches_of_like_length(seconds: Sequence[float], batch_seconds: float) -> Iterator[list[int]]:
    """Indices of clips of like length, longest first, so that a batch too large for the memory shows at once."""
    batch: list[int] = []
    for i in sorted(range(len(seconds)), key=lambda i: -seconds[i]):
        if batch and seconds[batch[0]] * (len(batch) + 1) > batch_seconds:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def read_audio_file(source: str | Path | BinaryIO, sampling_rate: int) -> np.ndarray:
    """Read a recording in any format, rate and channel count that soundfile knows.

    Returns float32 [samples], mono at `sampling_rate`. Raises UserError if it is missing, unreadable, empty or not
    finite.
    """
    name = str(source) if isinstance(source, (str, Path)) else "standard input"
    if isinstance(source, (str, Path)) and not Path(source).is_file():
        raise UserError(f"{name}: no such audio file; check the path")
    try:
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        reason = str(error).rpartition(": ")[2].strip().rstrip(".")
        raise UserError(f"{name}: cannot be read as audio ({reason}); convert it to WAV or FLAC") from error
    if len(samples) == 0:
        raise UserError(f"{name}: has no samples; remove it or record it again")
    if not np.isfinite(samples).all():
        raise UserError(f"{name}: has samples that are NaN or infinite; export it again")
    mono = samples.mean(axis=1, dtype=np.float32)
    if rate != sampling_rate:
        mono = soxr.resample(mono, rate, sampling_rate)
    if len(mono) == 0:
        raise UserError(f"{name}: is too short, {len(samples)} samples at {rate} Hz; remove it or record it again")
    return mono


def split_long(samples: np.ndarray, sampling_rate: int, max_seconds: float = MAX_SECONDS) -> list[tuple[int, int]]:
    """Cut a recording [samples] at its quietest points into pieces of at most `max_seconds` (at least 0.1).

    Returns (first, end) sample indices that follow each other and cover every sample. A cut falls where 0.3 s around it
    hold the least energy, in the later half of what is allowed, and leaves no scrap at the end.
    """
    hop = max(1, round(FRAME_SECONDS * sampling_rate))
    longest = int(max_seconds * sampling_rate) // hop
    frames = len(samples) // hop
    if len(samples) <= max_seconds * sampling_rate:
        return [(0, len(samples))]
    energy = samples[: frames * hop].reshape(frames, hop).var(axis=1)
    energy = np.convolve(energy, np.ones(PAUSE_FRAMES), mode="same")
    cuts = [0]
    while len(samples) - cuts[-1] * hop > max_seconds * sampling_rate:
        start = cuts[-1]
        low, high = start + longest // 2, min(start + longest, frames - longest // 4)
        # Of equally quiet frames the last; a cut lies at the beginning of its frame.
        cuts.append(high - int(np.argmin(energy[low : high + 1][::-1])))
    edges = [cut * hop for cut in cuts] + [len(samples)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def transcribe_recordings(
    model: Any,
    processor: Any,
    recordings: Sequence[np.ndarray],
    max_seconds: float = MAX_SECONDS,
    **options: Any,
) -> list[list[Segment]]:
    """Transcribe recordings [samples] of any length; `options` are those of `transcribe_batch`.

    Returns the segments of each recording that hold text; a short recording is one segment.
    """
    rate = processor.sampling_rate
    spans = [[(n, *span) for span in split_long(samples, rate, max_seconds)] for n, samples in enumerate(recordings)]
    pieces = [piece for recording in spans for piece in recording]
    texts = transcribe_batch(model, processor, [recordings[n][start:end] for n, start, end in pieces], **options)
    segments: list[list[Segment]] = [[] for _ in recordings]
    for (n, start, end), text in zip(pieces, texts, strict=True):
        if text:
            segments[n].append(Segment(round(start / rate, 3), round(end / rate, 3), text))
    return segments


def transcribe_files(
    model: Any,
    processor: Any,
    paths: Iterable[str | Path],
    batch_seconds: float | None = None,
    max_new_tokens: int | None = None,
    num_beams: int = 1,
    max_seconds: float = MAX_SECONDS,
) -> Iterator[Transcript]:
    """Transcribe files, folders (every recording below, sorted) and `-` (a recording on standard input).

    Gives their transcripts in order, as they are ready. A recording that cannot be read is logged as one line, which
    stands in its transcript's `error`; the others go on. Files are read and dropped in groups of a few batches, so that
    thousands of them need no more memory, and the next group is read while one is heard.
    """
    options = {"batch_seconds": batch_seconds, "max_new_tokens": max_new_tokens, "num_beams": num_beams}
    begun = (_begin(path, processor.sampling_rate) for path in _expand(paths))
    seconds = batch_seconds or default_batch_seconds(model)
    for group in ahead(in_groups(begun, lambda one: one[0].duration, seconds)):
        heard = [(transcript, samples) for transcript, samples in group if samples is not None]
        recordings = [samples for _, samples in heard]
        found = transcribe_recordings(model, processor, recordings, max_seconds, **options)
        for (transcript, _), segments in zip(heard, found, strict=True):
            transcript.segments = segments
            transcript.text = " ".join(segment.text for segment in segments)
        yield from (transcript for transcript, _ in group)


def in_groups(items: Iterable[T], duration: Callable[[T], float], batch_seconds: float) -> Iterator[list[T]]:
    """Items in order, together as many as fill a few batches, so that few of them are held at a time."""
    group: list[T] = []
    held = 0.0
    for item in items:
        group.append(item)
        held += duration(item)
        if held >= BATCHES_IN_GROUP * batch_seconds:
            yield group
            group, held = [], 0.0
    if group:
        yield group


def ahead(groups: Iterator[T]) -> Iterator[T]:
    """The same; while one of them is worked on, a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, groups, None)
        while (group := following.result()) is not None:
            following = thread.submit(next, groups, None)
            yield group


def _begin(path: str | Path, sampling_rate: int) -> tuple[Transcript, np.ndarray | None]:
    """A recording's transcript, without text yet, and its samples, if it can be read."""
    transcript = Transcript(str(path))
    try:
        samples = _read(path, sampling_rate)
    except UserError as error:
        transcript.error = str(error)
        log.error("%s", error)
        return transcript, None
    transcript.duration = round(len(samples) / sampling_rate, 3)
    return transcript, samples


def _expand(paths: Iterable[str | Path]) -> Iterator[str | Path]:
    for path in paths:
        if str(path) != "-" and Path(path).is_dir():
            found: list[Path] = sorted(
                p for p in Path(path).rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file()
            )
            # An empty folder stays in the list and is reported like a bad file.
            yield from found or (path,)
        else:
            yield path


def _read(path: str | Path, sampling_rate: int) -> np.ndarray:
    if str(path) == "-":
        return read_audio_file(io.BytesIO(sys.stdin.buffer.read()), sampling_rate)
    if Path(path).is_dir():
        raise UserError(f"{path}: no recordings in this folder; known suffixes are {' '.join(sorted(AUDIO_SUFFIXES))}")
    return read_audio_file(path, sampling_rate)


def to_json(transcripts: Sequence[Transcript], seconds: float) -> dict[str, Any]:
    """Transcripts and timing as plain data: `seconds` is the wall-clock time that they took.

    `rtf` is the real-time factor, wall-clock time per time of audio; null without audio.
    """
    audio_seconds = sum(transcript.duration for transcript in transcripts)
    return {
        "files": [{k: v for k, v in asdict(t).items() if k != "error" or v} for t in transcripts],
        "audio_seconds": round(audio_seconds, 3),
        "wall_seconds": round(seconds, 3),
        "rtf": round(seconds / audio_seconds, 4) if audio_seconds else None,
    }
