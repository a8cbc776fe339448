"""Malformed recordings and manifests through the real readers, by Hypothesis, in a process that may be killed.

    python tests/fuzzing.py audio 1000 DIRECTORY [SPEECH]
    python tests/fuzzing.py manifests 300 DIRECTORY

A recording or manifest is read, or refused in one line that names it, within 5 s and 300 MB over its own samples; a
sound clip read or heard after it, or beside it, is as it was. What fails stays in DIRECTORY as `current.*`.
"""

from __future__ import annotations

import gzip
import json
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from test_reader import FFMPEG, SOUNDFILE, encoded, speech, without_length
from tiny import MELS, frames_of, inputs_of, text_ids, tiny_speech_lm

from depthup.config import DataConfig
from depthup.data import BadAudio, load_cuts, read_audio
from depthup.data.reader import measure, read
from depthup.errors import UserError

RATE = 16000
SECONDS, MEGABYTES = 5, 300
"""Of processor time, which other processes do not lengthen."""
BLOCKED = 20
"""Times as long without any work, such as waiting for a pipe, is a hang too."""
ENDLESS = 200.0
"""Times a clip's own length that a malformed copy of it may state and hold."""
EXTREMES = [
    b"\xff" * 4,
    b"\0" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\0\0\0",
    b"\0\0\0\x80",
    b"\x01\0\0\0",
]


def limited(examples: int, strategy: Any, check: Callable[[Any], None]) -> None:
    """`check` on so many examples, the same ones each time; the first failure ends it."""
    config = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(0)(config(given(strategy)(check)))()


def in_bounds(work: Callable[[], Any]) -> Any:
    """The result of `work`, or the line of its UserError; a hang ends this process by SIGPROF or SIGALRM."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # begin to count the peak anew
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(BLOCKED * SECONDS)
    try:
        found = work()
    except UserError as error:
        assert "\n" not in str(error) and str(error).isprintable(), f"not one line: {error!r}"
        found = str(error)
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    own = found.nbytes if isinstance(found, np.ndarray) else 0
    used = memory("VmHWM") - before - own / 2**20
    assert used < MEGABYTES, f"{used:.0f} MB over its own samples"
    return found


def memory(field: str) -> float:
    """MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def mutations(length: int) -> st.SearchStrategy[list[tuple[str, int, Any]]]:
    """What is done to bytes: mostly near the beginning, where headers are."""
    place = st.one_of(st.integers(0, min(200, length - 1)), st.integers(0, length - 1))
    return st.lists(
        st.one_of(
            st.tuples(st.just("set"), place, st.binary(min_size=1, max_size=8)),
            st.tuples(st.just("set"), place, st.sampled_from(EXTREMES)),
            st.tuples(st.just("flip"), place, st.integers(0, 7)),
            st.tuples(st.just("cut"), place, st.none()),
            st.tuples(st.just("drop"), place, st.integers(1, 400)),
            st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=64)),
            st.tuples(st.just("repeat"), place, st.integers(1, 2000)),
        ),
        min_size=1,
        max_size=4,
    )


def mutated(content: bytes, changes: list[tuple[str, int, Any]]) -> bytes:
    for what, place, value in changes:
        place = min(place, max(0, len(content) - 1))
        before, after = content[:place], content[place:]
        if what == "set":
            content = before + value + after[len(value) :]
        elif what == "flip" and after:
            content = before + bytes([after[0] ^ 1 << value]) + after[1:]
        elif what == "cut":
            content = before
        elif what == "drop":
            content = before + after[value:]
        elif what == "insert":
            content = before + value + after
        elif what == "repeat":
            content = before + after[:value] + after
    return content


def corpus(folder: Path | None) -> dict[str, bytes]:
    """A clip in every format: a real one where `folder` has some, and files that others compressed."""
    found, clip = {}, speech(1.2)
    if folder is not None:
        real = sorted(folder.glob("*/audio/**/*.ogg"))[:3] + sorted(folder.glob("*/audio/**/*.flac"))[:3]
        found = {f"{number}{path.suffix}": path.read_bytes() for number, path in enumerate(real)}
        clip = read(real[0], RATE)[0][: 2 * RATE]
    found |= {f"a.{suffix}": encoded(clip, suffix) for suffix in (*SOUNDFILE, *FFMPEG)}
    found["stereo.wav"] = encoded(np.stack([clip, -clip], 1), "wav")
    found["piped.flac"] = without_length(encoded(clip, "flac"))
    return found


def audio(examples: int, folder: Path, speech_folder: Path | None) -> None:
    files = corpus(speech_folder)
    good = folder / "good.flac"
    good.write_bytes(encoded(speech(0.8), "flac"))
    expected = read(good, RATE)[0]
    model = tiny_speech_lm().eval()
    alone = heard(model, [expected])[0]
    counts = {"read": 0, "refused": 0}

    def check(drawn: tuple[str, bytes]) -> None:
        name, content = drawn
        path = folder / f"current{Path(name).suffix}"
        path.write_bytes(content)
        (folder / "m.jsonl").write_text(json.dumps({"audio": path.name, "text": "a"}) + "\n")
        found = in_bounds(lambda: read(path, RATE)[0])
        seconds = in_bounds(lambda: measure(path))
        if isinstance(found, str):
            assert found.startswith(f"{path}: "), found
            counts["refused"] += 1
        else:
            assert found.dtype == np.float32 and found.ndim == 1 and np.isfinite(found).all()
            assert isinstance(seconds, float) and 0 <= seconds < ENDLESS * 10
            together = heard(model, [expected, found[: 3 * RATE]])[0]
            assert torch.allclose(alone, together, atol=1e-4), "another clip of the batch is heard otherwise"
            counts["read"] += 1
        in_bounds(lambda: [as_clip(cut) for cut in load_cuts(str(folder / "m.jsonl"), DataConfig())])
        assert np.array_equal(read(good, RATE)[0], expected), "a sound file is read otherwise after it"
        path.unlink()

    names = st.sampled_from(sorted(files))
    limited(examples, names.flatmap(lambda n: mutations(len(files[n])).map(lambda m: (n, mutated(files[n], m)))), check)
    print(json.dumps({"audio": examples, **counts}))


def as_clip(cut: Any) -> np.ndarray | None:
    """As training reads it: a bad one is skipped."""
    try:
        return read_audio(cut, RATE)
    except BadAudio:
        return None


def heard(model: Any, clips: list[np.ndarray]) -> torch.Tensor:
    """Logits [T, V] of the first clip in a batch of them all, of features as the model takes them."""
    frames = [np.abs(np.fft.rfft(np.resize(clip, max(64, len(clip) // 64 * 64)).reshape(-1, 64))) for clip in clips]
    features = [torch.from_numpy(np.log(spectrum[:, :MELS].clip(1e-6))).float() for spectrum in frames]
    inputs = inputs_of([[text_ids(2), one, text_ids(3)] for one in features])
    length = 2 + frames_of(len(features[0])) + 3
    with torch.no_grad():
        return model(**inputs).logits[0, :length]


def manifests(examples: int, folder: Path, _: Path | None) -> None:
    (folder / "a.flac").write_bytes(encoded(speech(0.3), "flac"))
    rows = [{"audio": "a.flac", "text": f'clip {n}, "so"', "speaker": f"s{n}", "duration": 0.3} for n in range(6)]
    jsonl = [json.dumps(row, ensure_ascii=False) for row in rows]
    csv = ["audio,text,speaker,duration"] + [f'a.flac,"clip {n}, ""so""",s{n},0.3' for n in range(6)]
    tsv = ["audio\ttext\tspeaker\tduration"] + [f'a.flac\tclip {n}, "so"\ts{n}\t0.3' for n in range(6)]
    kinds = {"m.jsonl": (jsonl, 0), "m.csv": (csv, 1), "m.tsv": (tsv, 1)}
    counts = {"read": 0, "refused": 0}

    packed = gzip.compress("\n".join(jsonl).encode(), mtime=0)

    def check(drawn: tuple[str, int, list[tuple[str, int, Any]]]) -> None:
        name, number, changes = drawn
        (folder / "current.jsonl.gz").write_bytes(mutated(packed, changes))
        in_bounds(lambda: list(load_cuts(str(folder / "current.jsonl.gz"), DataConfig())))
        lines, header = kinds[name]
        line = mutated(lines[number].encode(), changes)
        content = b"\n".join(
            [*(one.encode() for one in lines[:number]), line, *(one.encode() for one in lines[number + 1 :])]
        )
        path = folder / f"current{Path(name).suffix}"
        path.write_bytes(content + b"\n")
        found = in_bounds(lambda: [cut.supervisions[0].text for cut in load_cuts(str(path), DataConfig())])
        if isinstance(found, str):
            assert found.startswith(str(path)) or str(folder) in found, found
            counts["refused"] += 1
            return
        counts["read"] += 1
        texts = [rows[n]["text"] for n in range(6) if n != number - header]
        if number >= header and b"\n" not in line and b"\r" not in line:
            rest = [text for text in found if text in texts]
            assert rest == texts and len(found) <= 6, f"other rows became {found}"
        path.unlink()

    drawn = st.sampled_from(sorted(kinds)).flatmap(
        lambda name: st.integers(0, len(kinds[name][0]) - 1).flatmap(
            lambda n: mutations(len(kinds[name][0][n])).map(lambda changes: (name, n, changes))
        )
    )
    limited(examples, drawn, check)
    print(json.dumps({"manifests": examples, **counts}))


if __name__ == "__main__":
    logging.disable()
    kind, examples, folder, *rest = sys.argv[1:]
    {"audio": audio, "manifests": manifests}[kind](int(examples), Path(folder), Path(rest[0]) if rest else None)
