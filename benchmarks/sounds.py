"""Sounds for benchmarks of transcription: speech whose word times are known, and sounds without any speech."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from depthup.quickstart.corpus import Clip, _Espeak
from depthup.transcribe.transcript import Word
from depthup.transcribe.voice import FRAME, detector

RATE = 16000


class Event(ctypes.Structure):
    """espeak-ng's espeak_EVENT, of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


class Speaker(_Espeak):
    """espeak-ng, which tells when each word begins."""

    def say(self, text: str, voice: str) -> tuple[np.ndarray, list[Word]]:
        """float32 samples [samples] at 16 kHz, and the words; each lasts until the next begins."""
        self.events: list[tuple[int, int, float]] = []
        spoken = self.speak(Clip("", text, voice, 170, 50, 50, 90))
        seconds = len(spoken) / self.sampling_rate
        ends = [start for _, _, start in self.events[1:]] + [seconds]
        words = [
            Word(start, end, text[at - 1 : at - 1 + length])
            for (at, length, start), end in zip(self.events, ends, strict=True)
        ]
        return soxr.resample(spoken.astype(np.float32) / 2**15, self.sampling_rate, RATE), words

    def _collect(self, samples: object, count: int, events: int | None) -> int:
        at = events
        while at and (event := Event.from_address(at)).type:
            if event.type == 1:
                self.events.append((event.text_position, event.length, event.audio_position / 1000))
            at += ctypes.sizeof(Event)
        return super()._collect(samples, count, events)


def recordings(manifest: Path) -> Iterator[tuple[np.ndarray, str]]:
    """Samples at 16 kHz and text of each line."""
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        samples, rate = soundfile.read(manifest.parent / row["audio"], dtype="float32")
        yield (samples if rate == RATE else soxr.resample(samples, rate, RATE)), row["text"]


def without_speech(manifest: Path | None, seconds: float = 6.0, each: int = 4) -> dict[str, list[np.ndarray]]:
    """Noise, hum, tones and music, `each` of every kind, from soft to loud, and pauses of real recordings."""
    rng, time = np.random.default_rng(0), np.arange(int(seconds * RATE)) / RATE
    levels = np.geomspace(0.003, 0.3, each)
    white = rng.standard_normal((each, len(time)))
    spectrum = np.fft.rfft(rng.standard_normal((each, len(time))))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(spectrum.shape[1]))), len(time))
    hum = [sum(np.sin(2 * np.pi * base * k * time) / k for k in range(1, 8)) for base in (50, 60, 100, 120)]
    tones = [np.sin(2 * np.pi * pitch * time) for pitch in (220, 440, 1000, 3000)]
    sounds = {
        "digital silence": np.zeros((1, len(time))),
        "white noise": white,
        "pink noise": pink,
        "hum": np.array(hum[:each]),
        "tones": np.array(tones[:each]),
        "music": np.array([_music(rng, seconds) for _ in range(each)]),
    }
    found = {
        kind: [(level * s / max(1e-9, s.std())).astype(np.float32) for s, level in zip(group, levels, strict=False)]
        for kind, group in sounds.items()
    }
    if manifest is not None:
        found["pauses of recordings"] = _pauses(manifest, each)
    return found


def _music(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Chords of decaying plucked notes over a bass, and a drum on each beat."""
    total = np.zeros(int(seconds * RATE))
    for beat in np.arange(0, seconds - 0.5, 0.25):
        time = np.arange(int(0.5 * RATE)) / RATE
        at = int(beat * RATE)
        for step in rng.choice([0, 3, 5, 7, 10, 12, 15], 3, replace=False):
            pitch = 220 * 2 ** (step / 12)
            note = sum(np.sin(2 * np.pi * pitch * k * time) / k**2 for k in range(1, 6)) * np.exp(-6 * time)
            total[at : at + len(time)] += note
        total[at : at + len(time)] += rng.standard_normal(len(time)) * np.exp(-40 * time)
    return total


def _pauses(manifest: Path, count: int) -> list[np.ndarray]:
    """What is before, between and after speech in recordings, a second or more at a time."""
    found = []
    for samples, _ in recordings(manifest):
        detect = detector("auto", RATE)
        assert detect is not None
        frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
        quiet = [frame for frame in frames if detect(frame) < 0.1]
        if len(quiet) * FRAME > RATE:
            found.append(np.concatenate(quiet))
        if len(found) == count:
            break
    return found
