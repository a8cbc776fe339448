"""The process itself: `depthup serve` as a user starts it, and what SIGTERM does to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import tiny_checkpoint, tone, wav
from test_serve_safe import form


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("serve")
    model, processor = tiny_checkpoint(directory)
    model.save_pretrained(directory / "run")
    processor.save_pretrained(directory / "run")
    return directory / "run"


@contextmanager
def process_of(checkpoint: Path) -> Iterator[tuple[Any, int]]:
    """The process and its port, once it answers."""
    words = [sys.executable, "-m", "depthup.cli", "serve", str(checkpoint), "--port", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert process.stderr is not None
        said = next(line for line in iter(process.stderr.readline, "") if line.startswith("Serving run on http://"))
        yield process, int(said.rpartition(":")[2])
    finally:
        process.kill()
        process.wait()


def requests_of(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
        return json.load(answer)["requests"]


def test_sigterm_finishes_what_runs_and_takes_nothing_new(checkpoint: Path):
    body, headers = form(wav(tone(0.6)), model="run")
    lines = [f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": str(len(body))}.items()]
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\n{''.join(lines)}\r\n".encode()
    with process_of(checkpoint) as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(head + body[:1000])
            while requests_of(port) != 1:
                pass
            process.send_signal(signal.SIGTERM)
            assert process.stderr.readline().startswith("Stopping: 1 ")
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=10).close()
                except ConnectionError:  # refused, or reset where it waited while the door closed
                    break
            connection.sendall(body[1000:])
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200") and "text" in json.loads(answer.partition(b"\r\n\r\n")[2])
        assert process.wait(30) == -signal.SIGTERM
