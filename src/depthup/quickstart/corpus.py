"""The quickstart's speech: short commands spoken by espeak-ng's synthetic voices, made on the spot."""

from __future__ import annotations

import ctypes
import itertools
import json
import logging
import multiprocessing
import random
import string
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from depthup.errors import UserError

SAMPLING_RATE = 16000
WORKERS = 2
MARGIN_SECONDS = 0.1
# From espeak-ng's speak_lib.h.
SYNCHRONOUS_OUTPUT, POSITION_CHARACTER, UTF8 = 2, 1, 1

WORDS = {
    "action": "open close lock",
    "city": "paris london rome berlin tokyo",
    "contact": "call email visit",
    "day": "monday tuesday friday sunday",
    "device": "light lamp heater fan radio",
    "drink": "milk coffee juice",
    "food": "bread rice cheese butter sugar eggs",
    "genre": "jazz rock blues opera",
    "name": "anna david maria peter emma",
    "number": "two three four five six seven eight nine ten twenty",
    "opening": "door window curtain",
    "room": "kitchen bedroom bathroom garage office garden",
    "switch": "on off",
    "unit": "seconds minutes hours",
    "when": "today tomorrow tonight",
}
PATTERNS = (
    "turn {switch} the {room} {device}",
    "turn {switch} the {device} in the {room}",
    "{action} the {room} {opening}",
    "set the {room} to {number} degrees",
    "set a timer for {number} {unit}",
    "remind me in {number} {unit}",
    "{contact} {name} on {day}",
    "play some {genre} in the {room}",
    "what is the weather in {city} {when}",
    "add {food} and {drink} to my list",
    "buy {food} and {drink} {when}",
)

# An espeak-ng voice is an accent and a variant. Variants with breath noise are left out: they differ from run to run.
# Every test voice is new as a pairing; two of its accents and three of its variants occur nowhere else.
VOICES = {
    "train": "en-us+m1 en-us+f1 en-us+Andy en-us+Annie en-us+klatt4 en-gb+m2 en-gb+f4 en-gb+edward en-gb+steph "
    "en-gb-scotland+m3 en-gb-scotland+Andrea en-gb-scotland+klatt2 en-gb-scotland+f4 en-gb-x-rp+m4 en-gb-x-rp+f1 "
    "en-gb-x-rp+anika en-gb-x-rp+david en-029+m5 en-029+Annie en-029+m7 en-us-nyc+m6 en-us-nyc+f4 en-us-nyc+grandma "
    "en-us-nyc+adam",
    "validation": "en-us+m5 en-gb+belinda en-gb-x-rp+robert en-029+f1",
    "test": "en-us+linda en-gb-x-rp+m8 en-029+aunty en-gb-scotland+f1 en-gb-x-gbclan+f4 en-gb-x-gbcwmd+m3",
}

logger = logging.getLogger("depthup")


@dataclass(frozen=True)
class Clip:
    """One recording to make. Ranges are espeak-ng's: words per minute, and 0 to 100 (volume to 200)."""

    audio: str
    text: str
    speaker: str
    rate: int
    pitch: int
    pitch_range: int
    volume: int

    def manifest_row(self) -> dict[str, str]:
        """What the manifest says of the clip, except its duration."""
        accent = self.speaker.partition("+")[0]
        return {"audio": self.audio, "text": self.text, "speaker": self.speaker, "accent": accent}


def make_corpus(
    directory: Path, train_clips: int = 3000, validation_clips: int = 100, test_clips: int = 300, seed: int = 0
) -> None:
    """Write FLAC files (16 kHz, mono, some 2 s each) with `train.jsonl`, `validation.jsonl` and `test.jsonl`.

    Sentences and voices of one manifest occur in no other. A manifest appears when its clips are complete; those that
    stand there already are kept. Raises UserError when espeakng-loader is missing, or when a manifest of something else
    is in the way.
    """
    directory = Path(directory)
    clip_counts = {"train": train_clips, "validation": validation_clips, "test": test_clips}
    for split, clips in plan_corpus(clip_counts, seed).items():
        manifest = directory / f"{split}.jsonl"
        if manifest.exists():
            _require_same(manifest, clips)
            continue
        logger.info("Speaking %d clips for %s", len(clips), manifest)
        write_manifest(manifest, clips, speak_clips(clips, directory))


def write_manifest(manifest: Path, clips: list[Clip], durations: list[float]) -> None:
    """One line for each clip and its seconds; the manifest appears whole."""
    rows = (clip.manifest_row() | {"duration": duration} for clip, duration in zip(clips, durations, strict=True))
    partial = manifest.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(manifest)


def plan_corpus(clip_counts: dict[str, int], seed: int) -> dict[str, list[Clip]]:
    """Draw sentences, voices and manners of speaking for so many clips of `train`, `validation` and `test`."""
    rng = random.Random(seed)
    sentences = _all_sentences()
    rng.shuffle(sentences)
    held_out = len(sentences) // 20
    texts = {
        "validation": sentences[:held_out],
        "test": sentences[held_out : 3 * held_out],
        "train": sentences[3 * held_out :],
    }
    return {
        split: [_draw_clip(rng, split, i, texts[split][i % len(texts[split])]) for i in range(count)]
        for split, count in clip_counts.items()
    }


def _all_sentences() -> list[str]:
    sentences = []
    for pattern in PATTERNS:
        slots = [slot for _, slot, _, _ in string.Formatter().parse(pattern) if slot]
        for words in itertools.product(*(WORDS[slot].split() for slot in slots)):
            sentences.append(pattern.format(**dict(zip(slots, words, strict=True))))
    return sentences


def _draw_clip(rng: random.Random, split: str, index: int, text: str) -> Clip:
    return Clip(
        audio=f"{split}/{index:05d}.flac",
        text=text,
        speaker=rng.choice(VOICES[split].split()),
        rate=rng.randint(150, 210),
        pitch=rng.randint(35, 65),
        pitch_range=rng.randint(30, 70),
        volume=rng.randint(50, 100),
    )


def _require_same(manifest: Path, clips: list[Clip]) -> None:
    lines = manifest.read_text(encoding="utf-8").splitlines()
    # A line is the clip's row and then its duration.
    expected = [json.dumps(clip.manifest_row()).removesuffix("}") for clip in clips]
    if len(lines) != len(expected) or not all(map(str.startswith, lines, expected)):
        raise UserError(f"{manifest}: holds another corpus; remove it or choose another directory")


def speak_clips(clips: list[Clip], directory: Path, num_workers: int = WORKERS) -> list[float]:
    """Write the FLAC file of each clip below `directory` and return their seconds.

    Each worker is a fresh process: espeak-ng keeps state between clips, so only a fixed order from the start repeats.
    Raises UserError when espeakng-loader is missing.
    """
    if not find_spec("espeakng_loader"):
        raise UserError("the quickstart's speech needs espeakng-loader: pip install 'depthup[quickstart]'")
    for parent in {Path(clip.audio).parent for clip in clips}:
        (directory / parent).mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        workers = [stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for _ in range(num_workers)]
        parts = [worker.submit(_speak_part, clips[i::num_workers], directory) for i, worker in enumerate(workers)]
        durations = [0.0] * len(clips)
        for i, part in enumerate(parts):
            durations[i::num_workers] = part.result()
    return durations


def _speak_part(clips: list[Clip], directory: Path) -> list[float]:
    espeak = _Espeak()
    durations = []
    for clip in clips:
        spoken = _trim(espeak.speak(clip), espeak.sampling_rate)
        waveform = soxr.resample(spoken, espeak.sampling_rate, SAMPLING_RATE)
        soundfile.write(directory / clip.audio, waveform, SAMPLING_RATE, subtype="PCM_16")
        durations.append(round(len(waveform) / SAMPLING_RATE, 4))
    return durations


def _trim(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Leave at most MARGIN_SECONDS below 1 % of the peak at either end of int16 samples [time]."""
    level = np.abs(waveform.astype(np.int32))
    loud = np.flatnonzero(level > 0.01 * level.max())
    margin = int(MARGIN_SECONDS * rate)
    return waveform[max(loud[0] - margin, 0) : loud[-1] + 1 + margin]


class _Espeak:
    """espeak-ng in this process. It has global state and is not thread safe: one at a time."""

    def __init__(self) -> None:
        import espeakng_loader

        data = espeakng_loader.get_data_path().encode()
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._pieces: list[np.ndarray] = []
        # ctypes callbacks live only as long as Python refers to them.
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)(
            self._collect
        )
        self.sampling_rate: int = self._library.espeak_Initialize(SYNCHRONOUS_OUTPUT, 0, data, 0)
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, clip: Clip) -> np.ndarray:
        """Return int16 samples [time]."""
        self._pieces.clear()
        # British English is plain `en` to espeak-ng.
        errors = [self._library.espeak_SetVoiceByName(clip.speaker.replace("en-gb+", "en+").encode())]
        for parameter, value in enumerate((clip.rate, clip.volume, clip.pitch, clip.pitch_range), start=1):
            errors.append(self._library.espeak_SetParameter(parameter, value, 0))
        text = clip.text.encode() + b"\0"
        errors.append(
            self._library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, POSITION_CHARACTER, 0, UTF8, None, None)
        )
        if any(errors) or not self._pieces:
            raise RuntimeError(f"espeak-ng did not speak {clip}: error codes {errors}")
        return np.concatenate(self._pieces)

    def _collect(self, samples: Any, count: int, events: int | None) -> int:
        if count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0
