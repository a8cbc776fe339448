"""What strangers send: without a key, too much, too slow, broken, from pages elsewhere; and 500 damaged uploads."""

from __future__ import annotations

import errno
import http.client
import json
import os
import random
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
from serving import MODEL, Running, running, tiny_checkpoint, tone, until, wav

from depthup.serve import guard, run

CLIP = tone(0.5)
KEY = "a key of some length"
UPLOADS = int(os.environ.get("DEPTHUP_FUZZ", "50"))
"""500 by hand: DEPTHUP_FUZZ=500."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def server(checkpoint):
    with running(*checkpoint, max_upload_mb=2, max_audio_minutes=0.5) as found:
        yield found


def form(content: bytes, name: str = "a.wav", **fields: str) -> tuple[bytes, dict[str, str]]:
    """A multipart form, and its headers."""
    parts = [f'--edge\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    head = f'--edge\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = "".join(parts).encode() + head.encode() + content + b"\r\n--edge--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=edge"}


def post(server: Running, body: bytes, headers: dict[str, str], path: str = "/v1/audio/transcriptions"):
    """Status and body of an answer."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read() or b"{}")
    connection.close()
    return found


def test_it_is_for_this_machine_alone_unless_it_is_told_otherwise(server):
    from depthup.serve.settings import Settings

    assert Settings().host == "127.0.0.1"
    body, headers = form(wav(CLIP), model=MODEL)
    for refused in ({"Host": "rebound.example"}, {"Origin": "https://elsewhere.example"}):
        assert post(server, body, {**headers, **refused})[0] == 403
    own = server.url.replace("127.0.0.1", "localhost")
    assert post(server, body, {**headers, "Host": own.removeprefix("http://"), "Origin": own})[0] == 200


def test_a_key_is_asked_for_everywhere_but_on_the_page(checkpoint):
    with running(*checkpoint, api_key=KEY) as server:
        body, headers = form(wav(CLIP), model=MODEL)
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
            status, told = post(server, body, {**headers, **given})
            assert status == 401 and KEY not in json.dumps(told)
        assert post(server, body, {**headers, "Authorization": f"Bearer {KEY}"})[0] == 200
        for path, expected in (
            ("/", 200),
            ("/page/main.js", 200),
            ("/health", 200),
            ("/metrics", 401),
            ("/v1/models", 401),
        ):
            connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
            connection.request("GET", path)
            assert connection.getresponse().status == expected, path


def test_keys_are_compared_in_constant_time(monkeypatch):
    asked = []
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda *keys: asked.append(keys) or False)
    assert not guard._same("ä", "b") and asked == [("ä".encode(), b"b")]


def test_too_much_is_refused_whether_it_is_stated_or_not(server):
    body, headers = form(wav(tone(80)), model=MODEL)
    status, told = post(server, body, headers)
    assert status == 413 and "2 MB" in told["error"]["message"]

    def chunks():
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    assert post(server, chunks(), headers)[0] == 413  # type: ignore[arg-type]


def test_a_small_file_of_hours_of_silence_is_too_long(server):
    hours = wav(np.zeros(16000 * 3600, np.float32), kind="FLAC")
    assert len(hours) < 500_000
    body, headers = form(hours, model=MODEL)
    status, told = post(server, body, headers)
    assert status == 413 and told["error"]["code"] == "audio_too_long"


def test_a_slow_upload_and_one_that_takes_too_long_end(checkpoint, monkeypatch):
    monkeypatch.setattr(guard, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(run, "HEAD_SECONDS", 0.3)
    body, _ = form(wav(CLIP), model=MODEL)
    head = (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with running(*checkpoint, max_request_seconds=1.0) as server:
        host, port = server.url.removeprefix("http://").split(":")
        for sent, expected in ((head + body[:1000], b"408"), (b"POST /v1", b"")):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(sent)
                assert connection.recv(200)[9:12] == expected  # and not before the timeout of this test
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head)
            answer = b""
            for start in range(0, len(body), max(1, len(body) // 40)):
                connection.sendall(body[start : start + max(1, len(body) // 40)])
                connection.settimeout(0.1)
                try:
                    answer = connection.recv(200)
                    break
                except TimeoutError:
                    pass
            assert answer[9:12] == b"504"
        until(lambda: server.service.active == 0, 5)


def test_an_upload_that_breaks_off_is_no_error_of_the_server(server, caplog):
    body, _ = form(wav(CLIP), model=MODEL)
    kind = "Content-Type: multipart/form-data; boundary=edge"
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    broken = {"route": "/v1/audio/transcriptions", "status": "499"}
    counted = server.value("depthup_requests_total", **broken)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:1000])
    until(lambda: server.value("depthup_requests_total", **broken) != counted, 10)
    assert not caplog.records
    until(lambda: server.service.active == 0, 5)


def test_a_full_disk_is_told_as_such_and_the_next_request_is_served(checkpoint, monkeypatch):
    from starlette.datastructures import UploadFile

    with running(*checkpoint) as server:
        body, headers = form(wav(CLIP), model=MODEL)
        with monkeypatch.context() as patch:

            async def full(self, data):
                raise OSError(errno.ENOSPC, "No space left on device", "/secret/path")

            patch.setattr(UploadFile, "write", full)
            status, told = post(server, body, headers)
        assert status == 507 and "secret" not in json.dumps(told)
        assert post(server, body, headers)[0] == 200


def test_no_path_is_told_and_none_that_a_client_names_is_touched(server, tmp_path):
    victim = tmp_path / "victim.wav"
    for name in (str(victim), "../../victim.wav", "\\\\host\\victim.wav", "a\x00b.wav"):
        body, headers = form(b"this is no audio", name, model=MODEL)
        status, told = post(server, body, headers)
        text = json.dumps(told)
        assert status == 400 and "victim" not in text and "/tmp" not in text and str(Path.cwd()) not in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "body, kind",
    [
        (b"", "multipart/form-data; boundary=edge"),
        (b"--edge\r\nbroken", "multipart/form-data; boundary=edge"),
        (b"--edge\r\n\r\n\r\n--edge--", "multipart/form-data; boundary=edge"),
        (b"x", "multipart/form-data"),
        (b"model=a&file=b", "application/x-www-form-urlencoded"),
        (b"{}", "application/json"),
    ],
)
def test_broken_forms_are_refused(server, body, kind):
    assert post(server, body, {"Content-Type": kind})[0] == 400


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"model": 1}', b'{"messages": {}}'])
def test_broken_chats_are_refused(server, body):
    assert post(server, body, {"Content-Type": "application/json"}, "/v1/chat/completions")[0] == 400


def damaged(number: int) -> bytes:
    """A small recording, broken in the way of its number."""
    rng = random.Random(number)
    kinds = ("WAV", "FLAC", "OGG", "MP3")
    good = bytearray(wav(CLIP * rng.random(), kind=kinds[number % len(kinds)]))
    way = number // len(kinds) % 8
    if way == 0:  # cut off
        return bytes(good[: rng.randrange(len(good))])
    if way == 1:  # bytes turned over
        for _ in range(rng.choice((1, 8, 64))):
            good[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        return bytes(good)
    if way == 2:  # a header that claims the largest of everything
        at = rng.randrange(4, 60)
        return bytes(good[:at] + b"\xff" * 4 + good[at + 4 :])
    if way == 3:  # noise, with or without the right beginning
        return bytes(good[: rng.choice((0, 4, 44))]) + rng.randbytes(rng.randrange(3000))
    if way == 4:  # samples that are no numbers, or far too large
        value = rng.choice((float("nan"), float("inf"), 3e38))
        samples = np.full(800, value, "<f4").tobytes()
        head = struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            b"RIFF",
            36 + len(samples),
            b"WAVE",
            b"fmt ",
            16,
            3,
            1,
            16000,
            64000,
            4,
            32,
            b"data",
            len(samples),
        )
        return head + samples
    if way == 5:  # a rate, channels and a length that cannot be
        rate, channels = rng.choice((0, 1, 2**32 - 1)), rng.choice((0, 1, 1024, 65535))
        return struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            b"RIFF",
            2**32 - 1,
            b"WAVE",
            b"fmt ",
            16,
            1,
            channels,
            rate,
            0,
            2,
            16,
            b"data",
            2**32 - 1,
        ) + bytes(99)
    if way == 6:  # silence that was packed small
        return wav(np.zeros(16000 * rng.choice((60, 600)), np.float32), kind="FLAC")
    return zlib.compress(bytes(10**6)) if rng.random() < 0.5 else b""


def test_damaged_uploads_neither_crash_nor_hang_nor_grow_it(server):
    process = psutil.Process()
    rng = random.Random(0)
    sizes = []
    for number in rng.sample(range(10**6), UPLOADS) if UPLOADS < 500 else range(UPLOADS):
        body, headers = form(damaged(number), model=MODEL)
        status, told = post(server, body, headers)
        assert status in (200, 400, 413), (number, status, told)
        sizes.append(process.memory_info().rss / 1e6)
    body, headers = form(wav(CLIP), model=MODEL)
    assert post(server, body, headers)[0] == 200
    until(lambda: server.service.active == 0, 5)
    assert sizes[-1] - sizes[len(sizes) // 5] < 100, sizes[:: max(1, len(sizes) // 10)]  # MB
