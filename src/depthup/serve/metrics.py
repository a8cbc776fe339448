"""What Prometheus reads at /metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Of one server; names begin with `depthup_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        where: dict[str, Any] = {"namespace": "depthup", "registry": self.registry}
        self.requests = Counter("requests", "Requests that were answered", ["route", "status"], **where)
        self.seconds = Histogram(
            "request_seconds", "Time to the end of the answer", ["route"], buckets=SECONDS, **where
        )
        self.active = Gauge("requests_active", "Requests that run or wait", **where)
        self.audio = Counter("audio_seconds", "Audio that was decoded", **where)
        self.tokens = Counter("tokens", "Tokens that were written", **where)
        self.running = Gauge("rows_running", "Answers that are being written", **where)
        self.waiting = Gauge("rows_waiting", "Answers that wait to be begun", **where)
        self.batch_rows = Histogram("batch_rows", "Prompts that were read together", buckets=ROWS, **where)
