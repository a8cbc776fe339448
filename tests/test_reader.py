"""The one reader of recordings: any format to its true end, in constant memory, with a line for whatever is odd."""

from __future__ import annotations

import io
import os
import re
import threading
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from depthup.config import DataConfig
from depthup.data import BadAudio, load_cuts, read_audio
from depthup.data.reader import AudioReader, describe, measure, read

RATE = 16000
SOUNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    **{
        f"{kind}.wav": ("WAV", kind) for kind in ("PCM_U8", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")
    },
}
FFMPEG = {"m4a": ("mp4", "aac"), "webm": ("webm", "libopus"), "aac": ("adts", "aac"), "mkv": ("matroska", "pcm_s16le")}


def speech(seconds: float, rate: int = RATE) -> np.ndarray:
    """A wandering tone, so that no two stretches are alike."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (300 * time + 20 * time**2))).astype(np.float32)


def encoded(samples: np.ndarray, suffix: str, rate: int = RATE) -> bytes:
    """A file of this kind that holds samples [time] or [time, channels]."""
    file = io.BytesIO()
    if suffix in SOUNDFILE:
        kind, subtype = SOUNDFILE[suffix]
        soundfile.write(file, samples, rate, format=kind, subtype=subtype)
        return file.getvalue()
    kind, codec = FFMPEG[suffix]
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def without_length(flac: bytes) -> bytes:
    """As it is written to a pipe: the number of samples is 0, which means unknown."""
    fields = int.from_bytes(flac[18:26], "big") >> 36 << 36
    return flac[:18] + fields.to_bytes(8, "big") + flac[26:]


@pytest.mark.parametrize("suffix", [*SOUNDFILE, *FFMPEG])
def test_every_format_is_read_whole_and_any_stretch_of_it_is_the_same(suffix: str):
    samples = speech(7.0)
    content = encoded(samples, suffix)
    found, notes = read(content, RATE)
    assert notes == [] and found.dtype == np.float32
    assert len(found) == pytest.approx(len(samples), abs=0.15 * RATE)
    assert measure(content) == pytest.approx(len(found) / RATE, abs=0.1)
    # Codecs that delay do so at the beginning.
    lag = int(np.correlate(found[RATE : 2 * RATE], samples[RATE : 2 * RATE - 3000], "valid").argmax())
    assert np.corrcoef(found[RATE + lag : 2 * RATE + lag], samples[RATE : 2 * RATE])[0, 1] > 0.98 or lag > 2900
    stretch, _ = read(content, RATE, start=3.21, duration=1.5)
    assert len(stretch) == 1.5 * RATE
    # WebM knows places to a few milliseconds only, and Opus needs its time to come to rest.
    places = [51360 + shift for shift in (range(-48, 49) if suffix == "webm" else [0])]
    assert min(np.abs(stretch - found[place : place + len(stretch)])[200:].max() for place in places) < 0.05


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_blocks_put_together_are_the_whole_resampled_at_once(rate: int, monkeypatch: pytest.MonkeyPatch):
    samples = np.stack([speech(3.0, rate), 0.5 * speech(3.0, rate)], axis=1)
    content = encoded(samples, "wav", rate)
    whole, _ = read(content, RATE)
    monkeypatch.setattr("depthup.data.decoders.BLOCK", 4097)
    reader = AudioReader(content, RATE)
    blocks = list(reader)
    assert len(blocks) > 10 and max(map(len, blocks)) < RATE
    assert np.array_equal(np.concatenate(blocks), whole)
    assert reader.seconds == pytest.approx(3.0) and len(whole) == 3 * RATE
    assert np.abs(whole - 0.75 * speech(3.0))[400:-400].max() < 2e-3


def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path):
    content = without_length(encoded(speech(3.1), "flac"))
    with pytest.raises(Exception, match="."):
        soundfile.read(io.BytesIO(content))  # libsndfile alone asks for the memory of 2^63 samples, or fails
    assert np.abs(read(content, RATE)[0] - speech(3.1)).max() < 1e-3
    assert measure(content) == pytest.approx(3.1)
    (tmp_path / "piped.flac").write_bytes(content)
    (tmp_path / "m.jsonl").write_text('{"audio": "piped.flac", "text": "a"}\n')
    (cut,) = load_cuts(str(tmp_path / "m.jsonl"), DataConfig())
    assert cut.duration == pytest.approx(3.1) and len(read_audio(cut, RATE)) == pytest.approx(3.1 * RATE)


def ogg_checksum(page: bytes) -> int:
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum >> 31 else 0)) & 0xFFFFFFFF
    return checksum


@pytest.mark.parametrize(("suffix", "count"), [("flac", 1 << 35), ("flac", 1 << 15), ("ogg", 1 << 50), ("ogg", 30000)])
def test_a_wrong_count_of_samples_loses_nothing(suffix: str, count: int):
    content = bytearray(encoded(speech(3.0), suffix))
    if suffix == "flac":
        content[18:26] = (int.from_bytes(content[18:26], "big") >> 36 << 36 | count).to_bytes(8, "big")
    else:
        last = content.rindex(b"OggS")
        content[last + 6 : last + 14], content[last + 22 : last + 26] = count.to_bytes(8, "little"), bytes(4)
        content[last + 22 : last + 26] = ogg_checksum(content[last:]).to_bytes(4, "little")
    found, _ = read(bytes(content), RATE)
    assert len(found) >= 2.9 * RATE


def test_an_mp3_whose_count_is_wrong_is_measured_and_read_whole():
    content = bytearray(encoded(speech(30.0), "mp3"))
    place = max(content.find(b"Xing"), content.find(b"Info"))
    frames = int.from_bytes(content[place + 8 : place + 12], "big")
    for wrong in (frames // 10, frames * 1000):
        content[place + 8 : place + 12] = wrong.to_bytes(4, "big")
        assert len(read(bytes(content), RATE)[0]) == pytest.approx(30 * RATE, rel=0.01)
        assert measure(bytes(content)) == pytest.approx(30, rel=0.01)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "w64", "caf", "flac", "mp3", "m4a"])
def test_a_file_cut_short_gives_what_there_is_and_says_both_lengths(suffix: str, tmp_path: Path):
    content = encoded(speech(10.0), suffix)
    if suffix == "m4a":  # whose table, at its end, must come first to be read at all
        content = _table_first(content, tmp_path / "a.m4a")
    found, notes = read(content[: len(content) * 6 // 10], RATE, name="a")
    assert 4 * RATE < len(found) < 7.5 * RATE
    assert re.fullmatch(r"a: is cut short: [4-7]\.\d\d s of the 10\.0\d s that it states", notes[0])


def _table_first(content: bytes, path: Path) -> bytes:
    source = av.open(io.BytesIO(content))
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return path.read_bytes()


def test_an_ogg_without_its_end_mark_is_named():
    content = encoded(speech(10.0), "opus")
    found, notes = read(content[: len(content) * 6 // 10], RATE)
    assert len(found) < 8 * RATE
    assert notes == [f"audio: is cut short: it has no end mark after its {len(found) / RATE:.2f} s"]


def test_sizes_as_written_to_a_pipe_are_no_cut():
    content = bytearray(encoded(speech(2.0), "wav"))
    place = content.index(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0):
        content[place : place + 4] = size.to_bytes(4, "little")
        found, notes = read(bytes(content), RATE)
        assert len(found) == pytest.approx(2 * RATE, abs=2) and notes == []


def test_channels_that_cancel_are_not_silence(tmp_path: Path):
    samples = speech(3.0)
    for scale in (-0.95, -0.9):
        found, notes = read(encoded(np.stack([samples, scale * samples], axis=1), "wav"), RATE, name="a")
        assert np.abs(found - samples).max() < 1e-3
        assert notes == ["a: has channels that cancel each other; the loudest is read, channel 0"]
    # A telephone call: each side speaks in its own channel, and neither is lost.
    call = np.stack(
        [samples * (np.arange(len(samples)) < RATE), samples * (np.arange(len(samples)) > 2 * RATE)], axis=1
    )
    found, notes = read(encoded(call, "wav"), RATE)
    assert notes == [] and np.abs(found - call.mean(axis=1)).max() < 1e-3


def test_a_channel_can_be_chosen():
    left, right = speech(1.0), 0.1 * speech(1.0)[::-1]
    content = encoded(np.stack([left, right], axis=1), "wav")
    for channel, expected in {"left": left, "right": right, 0: left, 1: right, "mix": (left + right) / 2}.items():
        assert np.abs(read(content, RATE, channel=channel)[0] - expected).max() < 1e-3
    assert describe(content) == (RATE, 2)
    with pytest.raises(BadAudio, match="^audio: has no channel 2, only 2; choose another$"):
        read(content, RATE, channel=2)


def test_a_sample_that_is_no_sound_is_that_files_error():
    samples = speech(1.0)
    samples[500] = -5e37
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    with pytest.raises(BadAudio, match="^z.wav: is damaged: a sample of 5e[+]37 is no sound"):
        read(file.getvalue(), RATE, name="z.wav")


@pytest.mark.parametrize("rate", [1, 2**31 - 1])
def test_a_rate_that_no_recording_has_asks_for_no_memory(rate: int):
    content = bytearray(encoded(speech(1.0), "wav"))
    content[24:28] = rate.to_bytes(4, "little")
    with pytest.raises(BadAudio, match=f"states a rate of {rate} Hz"):
        read(bytes(content), RATE)


def test_a_name_that_is_no_text_and_a_pipe(tmp_path: Path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    Path(path).write_bytes(encoded(speech(1.0), "wav"))
    assert len(read(path, RATE)[0]) == RATE
    Path(path).write_bytes(b"nonsense")
    with pytest.raises(BadAudio) as error:
        read(path, RATE)
    assert str(error.value).encode("utf-8") and r"caf\xe9.wav: cannot be read" in str(error.value)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(encoded(speech(1.0), "flac"),))
    writer.start()
    assert len(read(tmp_path / "pipe", RATE)[0]) == RATE
    writer.join()


def test_what_no_recording_is_gets_one_line(tmp_path: Path):
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n")
    (tmp_path / "empty.wav").write_bytes(b"")
    for name, says in {"list.m3u8": "in no format that is known", "empty.wav": "0 bytes", ".": "is a folder"}.items():
        with pytest.raises(BadAudio, match=says) as error:
            read(tmp_path / name, RATE)
        assert "\n" not in str(error.value)


def test_a_long_recording_takes_the_memory_of_its_mono_samples_and_a_constant(tmp_path: Path):
    """Three minutes of 48 kHz stereo: 69 MB decoded, 11.5 MB as read."""
    minutes, rate = 3, 48000
    with soundfile.SoundFile(tmp_path / "long.wav", "w", rate, 2, "PCM_16") as file:
        for _ in range(minutes):
            file.write(np.full((60 * rate, 2), 100, np.int16))
    tracemalloc.start()
    try:
        assert sum(map(len, AudioReader(tmp_path / "long.wav", RATE))) == minutes * 60 * RATE
        in_blocks = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        samples, _ = read(tmp_path / "long.wav", RATE)
        whole = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert in_blocks < 30e6 and whole < 1.2 * samples.nbytes + 30e6
