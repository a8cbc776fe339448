"""A folder in which the documents' commands run as typed, on tiny random models with the names of real ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch
import yaml
from small_run import CONFIGURATIONS, RECIPES, save_base, save_recordings, save_whisper
from tiny_tokens import CODECS
from transformers import DacModel, HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from depthup.cli import main

BASE, WHISPER, HUBERT, CODEC = (
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "openai/whisper-base",
    "facebook/hubert-base-ls960",
    "descript/dac_16khz",
)
STEPS = ("max_steps", "front_end_steps", "encoder_frozen_steps", "warmup_steps")
RUNS = ("quickstart/run", "runs/english", "runs/a", "runs/b", "RUN", "my-run")
"""Copies of `runs/mine`."""


def build(directory: Path) -> Path:
    """Everything that the documents name, below `directory/stage`, and the data of recipes in `directory/shared`."""
    stage, shared = directory / "stage", directory / "shared"
    shutil.copytree(RECIPES, stage / "recipes")
    for recipe in (stage / "recipes").rglob("*.yaml"):
        if recipe.parent.name not in CONFIGURATIONS:
            _shorten(recipe)
    save_base(stage / BASE, layers=8)
    save_whisper(stage / WHISPER)
    save_whisper(shared / "models/whisper-tiny.en")
    _save_hubert(stage / HUBERT)
    _save_dac(stage / CODEC)
    _save_speech(stage)
    save_recordings(shared / "speech/fsdd", 8)
    for split in ("train", "test"):
        shutil.copy(shared / "speech/fsdd/manifest.jsonl", shared / f"speech/fsdd/{split}.jsonl")
    (stage / "page.txt").write_text("The quick brown fox jumps over the lazy dog. " * 20)
    (stage / "examples.jsonl").write_text(json.dumps({"text": "good morning", "answer": "Bonjour."}) + "\n")
    (stage / "recipe.yaml").write_text(yaml.safe_dump(_recipe()))
    _train(stage)
    return stage


def _shorten(recipe: Path) -> None:
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    if str(values.get("base", "")).startswith("pypi:"):
        values["base"] = BASE
    train = values.get("train", {})
    train |= {name: min(train[name], 2) for name in STEPS if train.get(name)}
    recipe.write_text(yaml.safe_dump(values))


def _recipe() -> dict[str, Any]:
    data = {"train": "train.jsonl", "validation": "validation.jsonl"}
    return {"extends": "recipes/english.yaml", "output_dir": "runs/mine", "data": data}


def _save_hubert(directory: Path) -> None:
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 9,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    size |= {"conv_dim": (8, 8), "conv_stride": (160, 2), "conv_kernel": (200, 3), "num_feat_extract_layers": 2}
    size |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    HubertModel(HubertConfig(**size)).save_pretrained(directory)
    Wav2Vec2FeatureExtractor().save_pretrained(directory)


def _save_dac(directory: Path) -> None:
    config = CODECS["dac"]().config
    config.n_codebooks = 8
    DacModel(config).save_pretrained(directory)


def _save_speech(stage: Path) -> None:
    rows = [json.loads(line) for line in save_recordings(stage / "audio", 24).read_text().splitlines()]
    rows = [row | {"audio": f"audio/{row['audio']}", "accent": row["speaker"]} for row in rows]
    parts = {"train": rows, "validation": rows[:4], "test": rows[:4], "new": rows[4:8], "more": rows[8:12]}
    parts["tasks"] = [rows[0], rows[0] | {"prompt": "Speech:<|audio|>\nIn French:", "text": "Bonjour."}]
    for name, part in parts.items():
        (stage / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    for name in ("commonvoice-en", "speechocean"):
        shutil.copytree(stage / "audio", stage / f"SPEECH/{name}/audio")
        for part in ("train", "validation", "test"):
            shutil.copy(stage / f"{part}.jsonl", stage / f"SPEECH/{name}")
    (stage / "benchmarks").symlink_to(RECIPES.parent / "benchmarks")
    corpus = stage / "quickstart/corpus"
    corpus.mkdir(parents=True)
    shutil.copytree(stage / "audio", corpus / "audio")
    shutil.copy(stage / "test.jsonl", corpus)
    times = np.arange(16000) / 16000
    talk = (0.3 * np.sin(2 * np.pi * 220 * times) * (np.sin(6 * np.pi * times) > 0)).astype(np.float32)
    for name in ("talk", "speech", "folder/a", "interviews/a", "interviews/b", "my-folder/a", "my-folder/b"):
        (stage / name).parent.mkdir(exist_ok=True)
        soundfile.write(stage / f"{name}.wav", talk, 16000)
    for name in ("a", "b"):
        (stage / f"my-folder/{name}.txt").write_text("what was said\n")
    for name, codec in (("talk.mp4", "aac"), ("talk.mp3", "mp3")):
        _encode(stage / name, codec, talk)


def _encode(path: Path, codec: str, samples: np.ndarray) -> None:
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            film.mux(packet)


def _train(stage: Path) -> None:
    before = Path.cwd()
    os.chdir(stage)
    try:
        assert main(["train", "recipe.yaml", "--train.report_to", "[]"]) == 0
        assert main(["evaluate", "runs/mine", "--asr", "test.jsonl", "--text", "page.txt"]) == 0
    finally:
        os.chdir(before)
    for name in RUNS:
        shutil.copytree(stage / "runs/mine", stage / name)
