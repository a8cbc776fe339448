"""Transcription: memory and speed over length, error of word times, text from what is no speech, gain of hotwords.

    python benchmarks/transcribing.py length --minutes 1,10,60,600 --vad energy --deaf
    python benchmarks/transcribing.py length --checkpoint RUN --manifest test.jsonl --minutes 1,10
    python benchmarks/transcribing.py words --checkpoint RUN --manifest test.jsonl --clips 40
    python benchmarks/transcribing.py silence --checkpoint RUN --manifest test.jsonl
    python benchmarks/transcribing.py hotwords --checkpoint RUN --manifest test.jsonl --train train.jsonl --clips 100

`length` joins recordings to the length asked for and transcribes them in a process of their own, with `--deaf` without
an LLM: reading, voice activity and cutting alone. `words` speaks the manifest's texts with espeak-ng, which tells when
each word begins, and joins the manifest's own recordings with pauses; there a word should be found when it is alone.
A JSON line each on standard output.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
from report import apart, save
from sounds import RATE, Speaker, recordings, without_speech

from depthup.evaluate.language import rules
from depthup.evaluate.scores import score
from depthup.train.progress import peak_memory_gb
from depthup.transcribe import recordings as room
from depthup.transcribe.hearing import transcribe_batch
from depthup.transcribe.recordings import transcribe_files, transcribe_recordings
from depthup.transcribe.transcript import Segment, Word

NEAR_SECONDS = 1.0
"""A word found further from where it was said is another."""


def load(options: argparse.Namespace) -> tuple[Any, Any]:
    from depthup import api

    return api.load(options.checkpoint, device=options.device)


def length(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for minutes in map(float, options.minutes.split(",")):
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            path = Path(folder) / "long.wav"
            _write_joined(path, minutes, options.manifest)
            rows.append({"minutes": minutes} | apart(_transcribe_long, path, options))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def _write_joined(path: Path, minutes: float, manifest: Path | None) -> None:
    """Recordings one after the other with half a second between them, over and over."""
    if manifest is None:
        rng = np.random.default_rng(0)
        clips = [rng.normal(0, 0.1, RATE * (2 + n % 5)).astype(np.float32) for n in range(20)]
    else:
        clips = [samples for samples, _ in islice(recordings(manifest), 200)]
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for clip in cycle(clips):
            if file.frames >= 60 * minutes * RATE:
                break
            file.write(clip)
            file.write(np.zeros(RATE // 2, np.float32))


def _transcribe_long(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    if options.deaf:
        model = SimpleNamespace(device=SimpleNamespace(type="cpu"))
        processor = SimpleNamespace(sampling_rate=RATE, language=None)
        room.hear = lambda model, processor, audio, *_: ((n, Segment(0.0, 0.0, "x")) for n in range(len(audio)))
    else:
        model, processor = load(options)
        transcribe_batch(model, processor, [np.zeros(RATE, np.float32)])  # warm up
    before, began, cpu = peak_memory_gb(), time.perf_counter(), time.process_time()
    (found,) = transcribe_files(model, processor, [path], vad=options.vad)
    wall = time.perf_counter() - began
    return {
        "seconds": wall,
        "cpu_seconds": time.process_time() - cpu,
        "times_real_time": found.duration / wall,
        "peak_gb_before": before,
        "peak_gb": peak_memory_gb(),
        "segments": len(found.segments),
        "deaf": options.deaf,
        "vad": options.vad,
    }


def words(options: argparse.Namespace) -> list[dict[str, Any]]:
    model, processor = load(options)
    clips = list(islice(recordings(options.manifest), options.clips))
    speaker, spoken = Speaker(), []
    for n, (_, text) in enumerate(clips):
        spoken.append(speaker.say(text, ("en-us+m1", "en-gb+f4", "en-us+linda", "en-gb-x-rp+m4")[n % 4]))
    heard = transcribe_batch(model, processor, [samples for samples, _ in spoken])
    errors, told = _start_errors([(said, segment.words) for (_, said), segment in zip(spoken, heard, strict=True)])
    rows = [{"what": "starts of synthetic words, s"} | _quantiles(errors) | {"found": len(errors), "said": told}]
    pause, at, starts, whole = np.zeros(int(1.5 * RATE), np.float32), 0.0, [], []
    for samples, _ in clips:
        starts.append(at + 1.5)
        whole += [pause, samples]
        at += 1.5 + len(samples) / RATE
    (joined,) = transcribe_recordings(model, processor, [np.concatenate(whole)], vad=options.vad)
    alone = transcribe_batch(model, processor, [samples for samples, _ in clips])
    together = [word for segment in joined.segments for word in segment.words]
    shifted = [segment.later(start).words for segment, start in zip(alone, starts, strict=True)]
    errors, told = _start_errors([(said, together) for said in shifted])
    what = "starts in joined recordings against those in each alone, s"
    rows.append({"what": what} | _quantiles(errors) | {"found": len(errors), "said": told})
    confident = _confidence(clips, alone)
    for row in (*rows, confident):
        print(json.dumps(row))
    return [*rows, confident]


def _start_errors(pairs: list[tuple[list[Word], list[Word]]]) -> tuple[np.ndarray, int]:
    """Seconds between where each word was said and where the same word was found, nearest first."""
    plain = rules("en").normalize
    errors, told = [], 0
    for said, found in pairs:
        told += len(said)
        for word in said:
            same = [abs(f.start - word.start) for f in found if plain(f.text) == plain(word.text)]
            if same and min(same) < NEAR_SECONDS:
                errors.append(min(same))
    return np.array(errors), told


def _quantiles(errors: np.ndarray) -> dict[str, float]:
    """Nothing where no word was found."""
    if not len(errors):
        return {}
    return {
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "p90": float(np.quantile(errors, 0.9)),
        "within_0.1": float((errors <= 0.1).mean()),
        "within_0.2": float((errors <= 0.2).mean()),
    }


def _confidence(clips: list[tuple[np.ndarray, str]], heard: list[Segment]) -> dict[str, Any]:
    """How often a word that was said has more confidence than one that was not (area under the curve)."""
    plain, right, wrong = rules("en").normalize, [], []
    for (_, text), segment in zip(clips, heard, strict=True):
        said = Counter(plain(text).split())
        for word in segment.words:
            (right if said[plain(word.text)] > 0 else wrong).append(word.confidence)
            said[plain(word.text)] -= 1
    above = np.array(right)[:, None] > np.array(wrong)[None]
    return {"what": "confidence", "right": len(right), "wrong": len(wrong), "area": float(above.mean())}


def silence(options: argparse.Namespace) -> list[dict[str, Any]]:
    model, processor = load(options)
    rows = []
    for vad in options.vad.split(","):
        for kind, sounds in without_speech(options.manifest).items():
            found = list(transcribe_recordings(model, processor, sounds, vad=vad))
            texts = [transcript.text for transcript in found if transcript.text]
            rows.append({"vad": vad, "what": kind, "clips": len(sounds), "with_text": len(texts), "texts": texts[:3]})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def hotwords(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rare words: in the clips' texts, of four letters or more, and fewer than twice in the training texts."""
    model, processor = load(options)
    plain = rules("en").normalize
    clips = list(islice(recordings(options.manifest), options.clips))
    lines = options.train.read_text(encoding="utf-8").splitlines()
    trained = Counter(word for line in lines for word in plain(json.loads(line)["text"]).split())
    said_words = {word for _, text in clips for word in plain(text).split() if len(word) > 3 and word.isalpha()}
    rare = sorted(word for word in said_words if trained[word] < 2)
    unsaid = [word for word in islice(trained, 3000) if len(word) > 5 and word.isalpha()]
    strangers = [word for word in unsaid if word not in said_words][: len(rare)]
    rows = []
    for name, given in {"none": [], "rare words": rare, "as many that are not said": strangers}.items():
        heard = transcribe_batch(model, processor, [samples for samples, _ in clips], hotwords=given)
        told = [
            (plain(text).split(), plain(segment.text).split()) for (_, text), segment in zip(clips, heard, strict=True)
        ]
        report = score([text for _, text in clips], [segment.text for segment in heard])
        of_rare = [(word in found) for said, found in told for word in said if word in rare]
        leaked = sum(word in given and word not in said for said, found in told for word in found)
        row = {"hotwords": name, "count": len(given), "wer": report.wer, "rare_said": len(of_rare)}
        rows.append(row | {"rare_found": float(np.mean(of_rare)) if of_rare else None, "given_but_not_said": leaked})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parts: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
        part.__name__: part for part in (length, words, silence, hotwords)
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--checkpoint")
    parser.add_argument("--manifest", type=Path, help="recordings with texts")
    parser.add_argument("--train", type=Path, help="hotwords: manifest of the training")
    parser.add_argument("--minutes", default="1,10")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--vad", default="auto")
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--device")
    parser.add_argument("--scratch", type=Path, help="folder for the long recordings")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    save(options.json, parts[options.part](options))


if __name__ == "__main__":
    main()
