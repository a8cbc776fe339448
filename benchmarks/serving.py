"""A server under load: right answers, times, throughput against one by one, memory; and what faults do to it.

    python benchmarks/serving.py RUN MANIFEST --clients 64 --seconds 300 --json runs/bench/serving.json

Starts `depthup serve RUN` as a process of its own, so memory is the server's alone. The text that each clip gets when
it is sent alone is the right one. A full disk is tried where TMPDIR, which holds uploads, is on a small file system.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import psutil
import websockets

from depthup.data.reader import read

KINDS = ("right", "wrong", "busy", "failed")
PCM_RATE = 24000
PARTS = ("load", "live", "faults")
HALF_OPEN, SLOW = 64, 8
SMALL_DISK = 8_000_000
"""Bytes of a file system that an upload may be as large as, to see what a full one does."""


class Server:
    """`depthup serve` on a free port; the log goes to a file."""

    def __init__(self, checkpoint: str, options: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.words = [sys.executable, "-m", "depthup.cli", "serve", checkpoint, "--port", str(self.port), *options]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> float:
        """Seconds until it answers."""
        began = time.monotonic()
        self.process = subprocess.Popen(self.words, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
        while True:
            try:
                httpx.get(f"{self.url}/health", timeout=5).raise_for_status()
                self.model = httpx.get(f"{self.url}/v1/models").json()["data"][0]["id"]
                return time.monotonic() - began
            except httpx.HTTPError:
                if self.process.poll() is not None:
                    raise SystemExit("the server ended while it started") from None
                time.sleep(0.2)

    def rss(self) -> float:
        """MB."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def processor_seconds(self) -> float:
        """Of all its threads, since it was started."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def stop(self, how: int = signal.SIGTERM) -> float:
        began = time.monotonic()
        self.process.send_signal(how)
        self.process.wait(120)
        return time.monotonic() - began


def ask(client: Any, server: Server, clip: bytes) -> tuple[int, str, float]:
    """Status, text and Retry-After of one request."""
    form = {"model": server.model}
    answer = client.post(f"{server.url}/v1/audio/transcriptions", data=form, files={"file": ("a.wav", clip)})
    text = answer.json().get("text", "") if answer.status_code == 200 else ""
    return answer.status_code, text, float(answer.headers.get("Retry-After", 1))


class Load:
    """Clients that each send a clip, wait for its text, and send another."""

    def __init__(self, server: Server, clips: list[bytes], right: list[str]) -> None:
        self.server, self.clips, self.right = server, clips, right
        self.found = dict.fromkeys(KINDS, 0)
        self.seconds: list[float] = []
        self.statuses: dict[str, int] = {}
        self.rss: list[float] = []
        self.ended = threading.Event()

    def run(self, clients: int, seconds: float) -> float:
        threads = [threading.Thread(target=self._client, args=(n,)) for n in range(clients)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while time.monotonic() - began < seconds:
            time.sleep(min(2.0, seconds / 20))
            self.rss.append(self.server.rss() if self.server.process.poll() is None else 0.0)
        self.ended.set()
        for thread in threads:
            thread.join()
        return time.monotonic() - began

    def _client(self, number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(timeout=600) as client:
            while not self.ended.is_set():
                n = rng.randrange(len(self.clips))
                began, wait = time.monotonic(), 0.0
                try:
                    status, text, wait = ask(client, self.server, self.clips[n])
                except httpx.HTTPError as error:
                    self._count("failed", type(error).__name__)
                    self.ended.wait(1)
                    continue
                if status == 200:
                    self.seconds.append(time.monotonic() - began)
                    self._count("right" if text == self.right[n] else "wrong", "200")
                else:
                    self._count("busy" if status == 429 else "failed", str(status))
                    self.ended.wait(wait)

    def _count(self, kind: str, status: str) -> None:
        self.found[kind] += 1
        self.statuses[status] = self.statuses.get(status, 0) + 1


def under_load(
    server: Server, clips: list[bytes], right: list[str], clients: int, seconds: float, mean: float
) -> dict[str, Any]:
    """What so many clients find in so many seconds; a clip lasts `mean` seconds."""
    load = Load(server, clips, right)
    took = load.run(clients, seconds)
    return {
        "clients": clients,
        "seconds": round(took, 1),
        **load.found,
        "statuses": load.statuses,
        "per_second": round(len(load.seconds) / took, 3),
        "audio_per_second": round(len(load.seconds) / took * mean, 2),
        "latency": spread(load.seconds),
        "rss_mb": [round(load.rss[int(q * (len(load.rss) - 1))]) for q in (0, 0.25, 0.5, 0.75, 1)],
    }


def one_by_one(server: Server, clips: list[bytes]) -> tuple[list[str], float]:
    with httpx.Client(timeout=600) as client:
        ask(client, server, clips[0])
        began = time.monotonic()
        return [ask(client, server, clip)[1] for clip in clips], time.monotonic() - began


def faults(server: Server, clips: list[bytes], right: list[str], seconds: float) -> dict[str, Any]:
    """Slow and half-open clients beside honest ones, a full disk, then a kill and a restart under load."""
    report: dict[str, Any] = {}
    open_ones = [half_open(server, b"POST /v1/audio/transcriptions HTTP/1.1\r\nHo" * (n % 2)) for n in range(HALF_OPEN)]
    ended = threading.Event()
    dripping = [threading.Thread(target=drip, args=(server, clips[n % len(clips)], ended)) for n in range(SLOW)]
    for one in dripping:
        one.start()
    load = Load(server, clips, right)
    load.run(4, seconds)
    report[f"beside {HALF_OPEN} half-open connections and {SLOW} slow uploads"] = load.found
    ended.set()
    for one in open_ones:
        one.close()
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < SMALL_DISK:
        with httpx.Client(timeout=600) as client:
            status = ask(client, server, bytes(2 * SMALL_DISK))[0]
            again = ask(client, server, clips[0])
            report["full disk"] = {"status": status, "next request right": again[:2] == (200, right[0])}
    load = Load(server, clips, right)
    waiting = threading.Thread(target=load.run, args=(8, 3 * seconds))
    waiting.start()
    time.sleep(seconds)
    server.stop(signal.SIGKILL)
    report["restart_seconds"] = round(server.start(), 1)
    waiting.join()
    report["killed and restarted under load"] = {**load.found, "statuses": load.statuses}
    after = Load(server, clips, right)
    after.run(4, seconds)
    return {**report, "after it": after.found}


def half_open(server: Server, sent: bytes) -> socket.socket:
    """A connection on which nothing follows."""
    one = socket.create_connection(("127.0.0.1", server.port))
    one.sendall(sent)
    return one


def drip(server: Server, clip: bytes, ended: threading.Event) -> None:
    """An upload of a byte every fifth of a second."""
    part = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(part + clip)}\r\n"
    kind = "Content-Type: multipart/form-data; boundary=edge\r\n\r\n"
    with half_open(server, f"{head}{kind}".encode() + part) as one:
        for at in range(len(clip)):
            if ended.wait(0.2):
                return
            one.sendall(clip[at : at + 1])


async def live(server: Server, samples: np.ndarray) -> dict[str, Any]:
    """How far behind speech its text is: the age of the oldest sound that no text has yet when more text comes."""
    said, lags, finals = 0.0, [], []
    before = server.processor_seconds()
    url = server.url.replace("http", "ws") + "/v1/realtime"
    async with websockets.connect(url) as session:

        async def speak() -> None:
            nonlocal said
            step = PCM_RATE // 20
            began = time.monotonic()
            for start in range(0, len(samples), step):
                pcm = (samples[start : start + step] * 32767).astype("<i2").tobytes()
                audio = base64.b64encode(pcm).decode()
                await session.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
                said = (start + step) / PCM_RATE
                await asyncio.sleep(max(0.0, began + said - time.monotonic()))

        speaking, committed, heard = asyncio.create_task(speak()), {}, 0.0
        while not speaking.done() or committed:
            try:
                event = json.loads(await asyncio.wait_for(session.recv(), 1))
            except asyncio.TimeoutError:
                continue
            kind = event["type"].rpartition(".")[2]
            if kind == "speech_started":
                heard = max(heard, event["audio_start_ms"] / 1000)
            elif kind == "partial":
                lags.append(said - heard)
                heard = max(heard, event["audio_end_ms"] / 1000)
            elif kind == "committed":
                committed[event["item_id"]] = time.monotonic()
            elif kind == "completed":
                finals.append(time.monotonic() - committed.pop(event["item_id"]))
                if event["end"] > heard:  # words that no partial text had
                    lags.append(said - heard)
                    heard = event["end"]
    busy = (server.processor_seconds() - before) / said
    return {"behind": spread(lags), "final_after_pause": spread(finals), "processor_seconds_a_second": round(busy, 2)}


def spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 95, 99)} | {"n": len(values)}


def tell(report: dict[str, Any], **found: Any) -> None:
    """Put a part into the report, and show it as soon as it is there."""
    report.update(found)
    print(json.dumps(found, indent=1), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--limit", type=int, default=24, help="clips of the manifest")
    parser.add_argument("--fault-seconds", type=float, default=10, help="length of each part of the faults")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--options", default="", help="of depthup serve, in one text")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.manifest.read_text().splitlines()[: options.limit]]
    clips = [(options.manifest.parent / row["audio"]).read_bytes() for row in rows]
    seconds = sum(row["duration"] for row in rows) / len(rows)
    server = Server(options.run, options.options.split())
    report: dict[str, Any] = {"clips": len(clips), "mean_clip_seconds": round(seconds, 2)}
    right, alone = one_by_one(server, clips)
    tell(report, one_by_one_per_second=round(len(clips) / alone, 3))
    if "load" in options.parts:
        tell(report, load=under_load(server, clips, right, options.clients, options.seconds, seconds))
    if "live" in options.parts:
        said = [read(options.manifest.parent / row["audio"], PCM_RATE)[0] for row in rows[:8]]
        pause = np.zeros(PCM_RATE, np.float32)
        tell(report, live=asyncio.run(live(server, np.concatenate([part for clip in said for part in (clip, pause)]))))
        tell(report, live_without_pauses=asyncio.run(live(server, np.concatenate([*said[:4], pause]))))
    if "faults" in options.parts:
        tell(report, faults=faults(server, clips, right, options.fault_seconds))
    tell(report, stop_seconds=round(server.stop(), 2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
