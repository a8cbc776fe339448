"""A tiny base on disk with a tokenizer, a few recordings, and a recipe over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

RECIPES = Path(__file__).parents[1] / "recipes"
CONFIGURATIONS = ("accelerate", "jobs")
"""Folders of it that hold no recipes."""
SMALL = {"kernel_size": 3, "feed_forward_width": 32, "dropout": 0.1}
"""An E-Branchformer layer."""
PARTS = ("english-48k", "shared", "tokens", "continuous", "base")
"""Parts of recipes, which others extend."""
WORDS = ("one", "two three", "four", "five six seven")


def shipped_recipes() -> list[Path]:
    """All recipes in the repository's folder, but for what others extend."""
    found = [path for path in sorted(RECIPES.rglob("*.yaml")) if path.parent.name not in CONFIGURATIONS]
    return [path for path in found if path.stem not in PARTS]


def byte_tokenizer(first: Sequence[str], **marks: str) -> PreTrainedTokenizerFast:
    """A token for each byte, behind those of `first`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*first, *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)


def save_base(directory: Path, seed: int = 0, layers: int = 3) -> Path:
    """A random Llama over bytes, in the hub's layout."""
    fast = byte_tokenizer(["<pad>", "<s>", "</s>"], bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    fast.save_pretrained(directory)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def give_opinions(base: Path) -> None:
    """Larger random weights, so that what a base says depends on what it was told."""
    model = LlamaForCausalLM.from_pretrained(base)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(base)


def save_whisper_tokenizer(directory: Path) -> None:
    """A tokenizer over bytes with Whisper's marks: the end of text behind all text, and every other mark behind it."""
    fast = byte_tokenizer([], eos_token="<|endoftext|>")
    marks = ["startoftranscript", "en", "fr", "transcribe", "notimestamps"]
    fast.add_special_tokens({"additional_special_tokens": [f"<|{mark}|>" for mark in marks]})
    fast.save_pretrained(directory)


def save_whisper(directory: Path, mels: int = 80, positions: int = 1500) -> Path:
    """A random Whisper with its decoder, in the hub's layout."""
    size = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    size |= {"decoder_layers": 1, "decoder_attention_heads": 2, "max_source_positions": positions}
    WhisperModel(WhisperConfig(**size, num_mel_bins=mels)).save_pretrained(directory)
    WhisperFeatureExtractor(feature_size=mels).save_pretrained(directory)
    save_whisper_tokenizer(directory)
    return directory


def save_recordings(directory: Path, count: int = 12) -> Path:
    """Tones, one pitch per transcript, of speakers `a` and `b`; returns the manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        rng = np.random.default_rng(i)
        seconds = 0.4 + 0.1 * (i % 3)
        tone = 0.3 * np.sin(2 * np.pi * 220 * (1 + i % 4) * np.arange(int(8000 * seconds)) / 8000)
        soundfile.write(directory / f"{i}.flac", tone + 0.01 * rng.standard_normal(len(tone)), 8000)
        text = WORDS[i % 4]
        rows.append({"audio": f"{i}.flac", "text": text, "duration": seconds, "speaker": "ab"[i % 2]})
    manifest = directory / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def save_recipe(directory: Path, **changes: object) -> Path:
    """Base, recordings and a recipe of ten steps below `directory`; returns the recipe."""
    manifest = save_recordings(directory / "audio")
    recipe = {
        "base": str(save_base(directory / "base")),
        "output_dir": str(directory / "run"),
        "encoder": {"width": 16, "num_mel_bins": 16},
        "upscale": {"num_layers": 1, "e_branchformer": SMALL},
        "data": {"train": str(manifest), "batch_seconds": 3, "num_buckets": 2},
        "augment": {"speed": [0.9, 1.1], "time_masks": 1},
        "train": {"max_steps": 10, "warmup_steps": 2, "save_steps": 5, "eval_steps": 0, "report_to": []},
        **changes,
    }
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
