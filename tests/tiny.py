"""Tiny random models for the tests."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PreTrainedModel, Qwen3Config

from depthup.config import ConnectorConfig, EncoderConfig, LoraConfig, Recipe, UpscaleConfig
from depthup.model.base import embedding_std
from depthup.model.configuration import SpeechLMConfig
from depthup.model.fingerprint import fingerprint
from depthup.model.layers import KINDS
from depthup.model.speech_lm import SpeechLM

VOCAB, MELS = 96, 8
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "eos_token_id": None,
    "pad_token_id": 0,
    "bos_token_id": 1,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "qwen": Qwen3Config(**SIZES),
    "gemma": Gemma3TextConfig(**SIZES, sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2),
}
LAYERS = tuple(KINDS)
SCOPES = ("speech", "from_speech", "all")


def tiny_base(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
        with torch.no_grad():  # larger weights than usual, so that mistakes show
            for p in base.parameters():
                if p.ndim > 1:
                    p.normal_(std=0.3)
    return base


def tiny_speech_lm(
    base: PreTrainedModel | None = None, method: str = "depth_upscale", ctc: bool = False, **upscale: Any
) -> SpeechLM:
    """A SpeechLM around a copy of `base`, with scope, layer and more as keywords."""
    base = base if base is not None else tiny_base()
    lora = LoraConfig(rank=2, speech_only=upscale.pop("lora_speech_only", False))
    connector, quantization = upscale.pop("connector", "frames"), upscale.pop("quantization", "none")
    upscale = {"num_layers": 2, **upscale, "e_branchformer": {"kernel_size": 3, **upscale.get("e_branchformer", {})}}
    encoder = EncoderConfig(width=16, num_mel_bins=MELS)
    recipe = Recipe(base="tiny", method=method, upscale=UpscaleConfig(**upscale), encoder=encoder, lora=lora)
    recipe.connector, recipe.base_quantization = ConnectorConfig(name=connector), quantization
    config = SpeechLMConfig.from_recipe(
        recipe,
        base.config,
        frame_stack=2,
        ctc_outputs=4 if ctc else 0,
        base_hash=fingerprint(base),
        base_embedding_std=embedding_std(base),
    )
    return SpeechLM(config, copy.deepcopy(base)).eval()


def shake(model: SpeechLM, scale: float = 0.2) -> SpeechLM:
    """Move everything that trains away from where it started, as training does."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * scale)
    return model


def clip(frames: int, seed: int = 0) -> torch.Tensor:
    """Features of one clip [frames, MELS]."""
    return torch.randn(frames, MELS, generator=torch.Generator().manual_seed(seed))


def text_ids(length: int, seed: int = 0) -> list[int]:
    return torch.randint(2, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def frames_of(clip_frames: int) -> int:
    """Placeholders for a clip: 4 features a frame, 2 frames stacked."""
    return math.ceil(math.ceil(clip_frames / 4) / 2)


def inputs_of(rows: list[list[Any]], side: str = "right") -> dict[str, torch.Tensor]:
    """Model inputs of rows made of pieces: a list of token ids, or features of a clip."""
    ids, clips = [], []
    for row in rows:
        sequence: list[int] = []
        for piece in row:
            if isinstance(piece, torch.Tensor):
                clips.append(piece)
                sequence += [VOCAB] * frames_of(len(piece))
            else:
                sequence += piece
        ids.append(torch.tensor(sequence))

    def pad(sequences: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_side=side)

    inputs = {"input_ids": pad(ids), "attention_mask": pad([torch.ones_like(i) for i in ids])}
    if clips:
        inputs["input_features"] = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        inputs["input_lengths"] = torch.tensor([len(c) for c in clips])
    return inputs


def merged(model: SpeechLM, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [B, T, hidden] and speech_ids [B, T] of inputs whose recordings took their places."""
    heard = model.hear(inputs["input_ids"], inputs["input_features"], inputs["input_lengths"])
    return heard.inputs_embeds, heard.speech_ids
