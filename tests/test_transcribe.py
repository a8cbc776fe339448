"""Transcription: batches, long recordings, files, folders, standard input, and what users see when a file is bad."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from threading import Semaphore
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from small_run import save_recipe

from depthup.data import reader
from depthup.errors import UserError
from depthup.model.configuration import SpeechLMConfig
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.recipe import load_recipe
from depthup.transcribe.hearing import transcribe_batch
from depthup.transcribe.reading import read_audio_file
from depthup.transcribe.recordings import transcribe_files

RATE = 16000


class Tokenizer:
    def batch_decode(self, ids: list[list[int]], skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return ["".join(chr(i) for i in row if i) + " " for row in ids]


class Processor:
    """Prompts are the number of samples of each clip behind padding, so that the fake model can spell it."""

    sampling_rate = RATE
    language = None
    tokenizer = Tokenizer()

    def seconds(self, clip: np.ndarray) -> float:
        return len(clip) / RATE

    def prompt_batch(
        self, audio: list[np.ndarray], device: str, instruction: None, prompt: None, language: None
    ) -> dict[str, torch.Tensor]:
        assert device == "cpu" and instruction is prompt is language is None
        ids = torch.tensor([[0, 7, len(clip)] for clip in audio])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def texts_of(*arguments: object, **options: object) -> list[str]:
    return [segment.text for segment in transcribe_batch(*arguments, **options)]


class Model(torch.nn.Module):
    """Hears the number of samples of a clip, or with `endless` never stops; remembers what it was asked."""

    def __init__(self, endless: bool = False) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(1, 1)
        self.endless = endless
        self.device = torch.device("cpu")
        self.ctc_head, self.makes_out = None, False
        self.config = SpeechLMConfig()
        self.generation_config = SimpleNamespace(repetition_penalty=1.1)  # else it would not be asked to generate
        self.calls: list[SimpleNamespace] = []

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: object) -> torch.Tensor:
        self.calls.append(
            SimpleNamespace(
                lengths=input_ids[:, -1].tolist(),
                inference=torch.is_inference_mode_enabled(),
                training=self.inner.training,
                **options,
            )
        )
        length = int(options["max_new_tokens"])
        new = torch.zeros(len(input_ids), length, dtype=torch.long)
        for row, samples in zip(new, input_ids[:, -1].tolist(), strict=True):
            text = "x" * length if self.endless else str(samples)[:length]
            row[: len(text)] = torch.tensor([ord(c) for c in text])
        return torch.cat([input_ids, new], dim=1)


def clips(*lengths: int) -> list[np.ndarray]:
    return [np.zeros(length, dtype=np.float32) for length in lengths]


def test_texts_come_back_in_the_order_given_without_the_prompt():
    lengths = [16000, 160, 48000, 480, 32000, 161]
    assert texts_of(Model(), Processor(), clips(*lengths), batch_seconds=3) == [str(n) for n in lengths]


def test_batches_hold_like_lengths_within_the_budget_padding_included():
    model = Model()
    transcribe_batch(model, Processor(), clips(*[16000, 48000] * 6, 400000), batch_seconds=6)
    assert [call.lengths for call in model.calls] == [[400000], [48000] * 2, [48000] * 2, [48000] * 2, [16000] * 6]


def test_a_batch_that_the_memory_cannot_hold_is_halved_and_the_ones_after_it_too(caplog: pytest.LogCaptureFixture):
    class Small(Model):
        def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: object) -> torch.Tensor:
            if len(input_ids) > 3:
                self.calls.append(SimpleNamespace(lengths=["no room"]))
                raise torch.OutOfMemoryError
            return super().generate(input_ids, attention_mask, **options)

    model, lengths = Small(), [RATE + n for n in range(14)]
    texts = texts_of(model, Processor(), clips(*lengths), batch_seconds=6.1)
    assert texts == [str(n) for n in lengths]
    assert [len(call.lengths) for call in model.calls] == [1, 3, 3, 3, 3, 1, 1]
    assert caplog.messages == ["6 clips at once are too much for the memory: going on with half as many"]
    alone = Small()
    alone.generate = _raising(torch.OutOfMemoryError)
    with pytest.raises(torch.OutOfMemoryError):
        transcribe_batch(alone, Processor(), clips(RATE))


def _raising(error: type[Exception]):
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def test_an_endless_loop_stops_at_a_limit_that_does_not_depend_on_the_neighbours():
    alone = texts_of(Model(endless=True), Processor(), clips(16000))
    together = texts_of(Model(endless=True), Processor(), clips(16000, 64000))
    assert [len(text) for text in together] == [16 + 12, 16 + 48]
    assert alone == together[:1]
    given = texts_of(Model(endless=True), Processor(), clips(16000, 64000), max_new_tokens=5)
    assert given == ["xxxxx"] * 2


def test_generation_is_greedy_in_evaluation_mode_and_the_mode_comes_back():
    model = Model()
    model.train()
    model.inner.eval()
    transcribe_batch(model, Processor(), clips(160), num_beams=3)
    assert (model.training, model.inner.training) == (True, False)
    model.inner.train()
    transcribe_batch(model, Processor(), clips(160))
    assert model.inner.training
    assert all(c.inference and not c.training and c.do_sample is False for c in model.calls)
    assert [c.num_beams for c in model.calls] == [3, 1]


def test_no_clips_give_no_texts():
    assert texts_of(Model(), Processor(), []) == []


def speech_with_pauses(pauses: list[float], seconds: float, rate: int = RATE) -> np.ndarray:
    """Loud noise with half a second of near silence around each pause."""
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.3, int(seconds * rate)).astype(np.float32)
    for pause in pauses:
        samples[int((pause - 0.25) * rate) : int((pause + 0.25) * rate)] *= 1e-3
    return samples


@pytest.mark.parametrize(("suffix", "rate", "channels"), [("wav", 8000, 1), ("flac", 44100, 2), ("ogg", 48000, 2)])
def test_any_format_rate_and_channel_count_becomes_mono_at_the_asked_rate(
    tmp_path: Path, suffix: str, rate: int, channels: int
):
    time = np.arange(2 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / f"a.{suffix}", np.stack([tone] * channels, axis=1), rate)
    samples = read_audio_file(tmp_path / f"a.{suffix}", RATE)
    assert samples.dtype == np.float32 and samples.shape == (2 * RATE,)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    assert np.abs(samples - expected)[RATE // 2 : -RATE // 2].max() < 0.03


def test_channels_are_averaged(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.tile([0.5, -0.25], (100, 1)), RATE, subtype="FLOAT")
    assert np.allclose(read_audio_file(tmp_path / "a.wav", RATE), 0.125)


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.wav"
    if kind == "text":
        path.write_text("this is no audio")
    elif kind == "nothing":
        path.write_bytes(b"")
    elif kind == "empty":
        soundfile.write(path, np.zeros(0), RATE)
    elif kind == "nan":
        soundfile.write(path, np.array([0.0, np.nan, 0.0]), RATE, subtype="FLOAT")
    elif kind == "infinite":
        soundfile.write(path, np.array([0.0, np.inf, 0.0]), RATE, subtype="FLOAT")
    elif kind == "folder":
        path.mkdir()
    return path


SAYS = {
    "missing": "no such audio file",
    "text": "cannot be read as audio",
    "nothing": "is empty, it has 0 bytes",
    "empty": "has no samples",
    "nan": "NaN",
    "infinite": "infinite",
}


@pytest.mark.parametrize("kind", SAYS)
def test_a_bad_file_gives_one_line_that_names_it(tmp_path: Path, kind: str):
    path = bad_file(tmp_path, kind)
    with pytest.raises(UserError) as error:
        read_audio_file(path, RATE)
    assert str(path) in str(error.value) and SAYS[kind] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_raw_file_gives_one_line(tmp_path: Path):
    (tmp_path / "a.raw").write_bytes(bytes(100))
    with pytest.raises(UserError, match="a.raw: cannot be read as audio"):
        read_audio_file(tmp_path / "a.raw", RATE)


def test_one_bad_file_among_many_is_reported_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    soundfile.write(tmp_path / "b.wav", np.zeros(320), RATE)
    soundfile.write(tmp_path / "a.flac", np.zeros(480), RATE)
    paths = [tmp_path / "b.wav", *(bad_file(tmp_path, kind) for kind in [*SAYS, "folder"]), tmp_path / "a.flac"]
    transcripts = list(transcribe_files(Model(), Processor(), paths, vad="none"))
    assert [t.path for t in transcripts] == [str(path) for path in paths]
    assert [t.text for t in transcripts] == ["320", *[""] * (len(SAYS) + 1), "480"]
    assert [t.error is not None for t in transcripts] == [False, *[True] * (len(SAYS) + 1), False]
    assert [r.getMessage() for r in caplog.records if r.name == "depthup"] == [t.error for t in transcripts if t.error]
    assert "no recordings in this folder" in transcripts[-2].error


def test_folders_are_expanded_sorted_and_only_recordings_are_taken(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    for n, name in enumerate(["sub/c.WAV", "b.flac", "a.wav"], start=2):
        soundfile.write(tmp_path / name, np.zeros(160 * n), RATE, format=name[-4:].strip(".").upper())
    (tmp_path / "notes.txt").write_text("not audio")
    transcripts = list(transcribe_files(Model(), Processor(), [tmp_path], vad="none"))
    assert [Path(t.path).name for t in transcripts] == ["a.wav", "b.flac", "c.WAV"]
    assert [t.text for t in transcripts] == ["640", "480", "320"]


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch, kind: str):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(800), 8000, format=kind)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(file.getvalue())))
    (transcript,) = transcribe_files(Model(), Processor(), ["-"], vad="none")
    assert (transcript.path, transcript.text, transcript.duration) == ("-", "1600", 0.1)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"nonsense")))
    (transcript,) = transcribe_files(Model(), Processor(), ["-"], vad="none")
    assert transcript.error.startswith("standard input: cannot be read as audio (in no format that is known")


def test_a_long_file_becomes_segments_with_times(tmp_path: Path):
    soundfile.write(tmp_path / "long.wav", speech_with_pauses([20.0], 40.0), RATE)
    (transcript,) = transcribe_files(Model(), Processor(), [tmp_path / "long.wav"], vad="none")
    first, second = transcript.segments
    assert (first.start, second.end) == (0.0, 40.0) and first.end == second.start
    assert abs(first.end - 20.0) < 0.25
    assert transcript.text == f"{first.text} {second.text}"
    assert int(first.text) + int(second.text) == 40 * RATE


def test_many_files_are_read_in_groups_the_next_one_while_one_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [tmp_path / f"{n:02}.wav" for n in range(24)]
    for n, path in enumerate(paths):
        soundfile.write(path, np.zeros(RATE + n), RATE)
    model, read, opened = Model(), Semaphore(0), reader.AudioReader

    def opening(*arguments: object, **options: object) -> reader.AudioReader:
        read.release()
        return opened(*arguments, **options)

    monkeypatch.setattr(reader, "AudioReader", opening)
    transcripts = transcribe_files(model, Processor(), paths, batch_seconds=1.0, vad="none")
    assert next(transcripts).text == str(RATE)
    # Groups are of eight here. Of the first all are heard, and the second is read with nobody asking for it.
    assert sorted(length for call in model.calls for length in call.lengths) == [RATE + n for n in range(8)]
    assert all(read.acquire(timeout=60) for _ in range(16))
    assert not read.acquire(timeout=0.1)
    assert [t.text for t in transcripts] == [str(RATE + n) for n in range(1, 24)]


def test_what_goes_wrong_unexpectedly_while_reading_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(path: Path, *_: object, **__: object) -> None:
        raise ZeroDivisionError(path.name)

    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    monkeypatch.setattr(reader, "AudioReader", broken)
    with pytest.raises(ZeroDivisionError, match="a.wav"):
        list(transcribe_files(Model(), Processor(), [tmp_path]))


def test_partial_texts_grow_into_the_text_and_a_clip_can_be_stopped(tmp_path: Path):
    model = SpeechLM.from_recipe(load_recipe(save_recipe(tmp_path)))
    processor = SpeechProcessor.build(model.config)
    audio = [np.random.default_rng(n).normal(0, 0.1, RATE + 4000 * n).astype(np.float32) for n in range(5)]
    wanted = [segment.text for segment in transcribe_batch(model, processor, audio, batch_seconds=3)]
    told: dict[int, list[str]] = {}

    def on_text(clip: int, text: str) -> bool:
        told.setdefault(clip, []).append(text)
        return clip != 2 or len(told[2]) < 5

    found = [s.text for s in transcribe_batch(model, processor, audio, batch_seconds=3, on_text=on_text)]
    assert found[2] != wanted[2] and wanted[2].startswith(told[2][-1])
    assert [text for n, text in enumerate(found) if n != 2] == [text for n, text in enumerate(wanted) if n != 2]
    for clip, texts in told.items():
        assert len(texts) > 3 and all(wanted[clip].startswith(text) for text in texts)
    by_beams: dict[int, str] = {}
    transcribe_batch(Model(), Processor(), clips(RATE, 9), on_text=lambda n, text: not by_beams.update({n: text}))
    assert by_beams == {0: str(RATE), 1: "9"}
