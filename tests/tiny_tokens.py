"""Tiny random audio encoders and neural codecs on disk, in the hub's layout, and tokenizers of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    DacConfig,
    DacModel,
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    MimiConfig,
    MimiModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from depthup.speech_tokens.fit import make_tokenizer
from depthup.speech_tokens.tokenizer import SpeechTokenizer

SMALL = {"num_filters": 2, "num_residual_layers": 1, "codebook_dim": 8}
CODEBOOK = 16
CODECS = {
    "encodec": lambda: EncodecModel(
        EncodecConfig(hidden_size=8, codebook_size=CODEBOOK, target_bandwidths=[0.3, 0.6], num_lstm_layers=1, **SMALL)
    ),
    "dac": lambda: DacModel(
        DacConfig(
            encoder_hidden_size=4,
            decoder_hidden_size=16,
            downsampling_ratios=[2, 4, 5, 8],
            upsampling_ratios=[8, 5, 4, 2],
            n_codebooks=3,
            codebook_size=CODEBOOK,
            codebook_dim=4,
        )
    ),
    "mimi": lambda: MimiModel(
        MimiConfig(
            hidden_size=16,
            vector_quantization_hidden_dimension=8,
            num_quantizers=4,
            codebook_size=CODEBOOK,
            num_hidden_layers=1,
            intermediate_size=16,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            upsample_groups=16,
            **SMALL,
        )
    ),
}
ENCODERS = {
    "wav2vec2": lambda: Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=24,
            conv_dim=(8, 8),
            conv_stride=(160, 2),
            conv_kernel=(200, 3),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
        )
    ),
    "whisper": lambda: WhisperModel(
        WhisperConfig(
            d_model=16,
            encoder_layers=3,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            vocab_size=60,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    ),
}


def save_codec(directory: Path, kind: str, seed: int = 0) -> Path:
    """A codec whose random codebooks lie in the space that its encoder fills, so that it uses more than one code."""
    model = _seeded(CODECS[kind], seed)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("codebook.embed", "codebook.embed_sum", "codebook.weight")):
                tensor.normal_(std=0.1)
            if name.endswith("codebook.cluster_usage"):
                tensor.fill_(1)
        if kind == "encodec":
            frames = model.encoder(torch.randn(1, 1, CODEBOOK * 320))[0].T
            model.quantizer.layers[0].codebook.embed.copy_(frames)
    model.save_pretrained(directory)
    if kind == "encodec":
        EncodecFeatureExtractor(sampling_rate=24000).save_pretrained(directory)
    return directory


def save_audio_encoder(directory: Path, kind: str = "wav2vec2", seed: int = 0) -> Path:
    _seeded(ENCODERS[kind], seed).save_pretrained(directory)
    (WhisperFeatureExtractor() if kind == "whisper" else Wav2Vec2FeatureExtractor()).save_pretrained(directory)
    return directory


def save_tokenizer(directory: Path, manifest: Path, **options: Any) -> SpeechTokenizer:
    """Semantic tokens of a tiny wav2vec 2.0 and acoustic ones of a tiny DAC, both 50 a second."""
    encoder = directory.with_name("audio-encoder")
    codec = directory.with_name("codec")
    if not encoder.exists():
        save_audio_encoder(encoder)
        save_codec(codec, "dac")
    defaults: dict[str, Any] = {"encoder": str(encoder), "layer": 2, "clusters": 20, "codec": str(codec)}
    return make_tokenizer(str(manifest), directory, **{**defaults, "codec_streams": 2, **options})


def _seeded(make: Any, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()
