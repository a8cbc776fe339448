"""A server around a tiny random model, on a port of this machine."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import uvicorn
from small_run import save_recipe
from tiny import shake
from transformers import AutoTokenizer, LlamaForCausalLM

from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.recipe import load_recipe
from depthup.serve.app import create_app
from depthup.serve.run import Protocol, Server
from depthup.serve.service import Service
from depthup.serve.settings import Settings
from depthup.transcribe.voice import Vad

MODEL = "tiny"
VAD: Vad = "none"
"""Silero knows that a tone is no speech."""


@dataclass
class Running:
    """A server that answers, and what is inside it."""

    url: str
    service: Service
    server: Server

    def value(self, name: str, **labels: str) -> float:
        """Of a metric; 0 before it was counted."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


def tiny_checkpoint(
    directory: Path, scope: str = "speech", ctc: bool = True, connector: str = "frames"
) -> tuple[Any, Any]:
    """A model with random weights that writes letters and spaces, and its processor."""
    upscale = {"num_layers": 1, "scope": scope, "e_branchformer": {"kernel_size": 3, "feed_forward_width": 32}}
    train = {"ctc_weight": 0.3 if ctc else 0.0}
    recipe = load_recipe(save_recipe(directory, upscale=upscale, train=train, connector={"name": connector}))
    torch.manual_seed(0)
    base = LlamaForCausalLM.from_pretrained(recipe.base)
    tokenizer = AutoTokenizer.from_pretrained(recipe.base)
    letters = tokenizer(" abcdefghijklmnopqrstuvwxyz")["input_ids"]
    with torch.no_grad():  # larger weights than usual, so that it says something else of everything
        for parameter in base.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
        silent = [i for i in range(len(tokenizer)) if i not in (*letters, tokenizer.eos_token_id)]
        base.lm_head.weight[silent] = 0
        base.lm_head.weight[letters[0]] *= 2
    base.save_pretrained(recipe.base)
    model = shake(SpeechLM.from_recipe(recipe), 0.3).eval()
    return model, SpeechProcessor.build(model.config)


@contextmanager
def running(model: Any, processor: Any, **settings: Any) -> Iterator[Running]:
    """Serves in a thread until the block ends; all requests are finished then."""
    service = Service(model, processor, Settings(port=0, **settings), MODEL)
    service.intake.vad = VAD
    app = create_app(service)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, http=Protocol, log_level="error", access_log=False)
    server = Server(config, service)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Running(f"http://127.0.0.1:{port}", service, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def tone(seconds: float, pitch: float = 220.0, rate: int = 16000) -> np.ndarray:
    """Something to hear: a tone that rises and falls."""
    t = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * t) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))).astype(np.float32)


def wav(samples: np.ndarray, rate: int = 16000, kind: str = "WAV") -> bytes:
    """Encoded."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


def until(what: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for it to hold; a request, say, is over a moment after its answer was read."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)
