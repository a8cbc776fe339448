"""Tiny random speech encoders of every kind, in the hub's layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as T
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni2
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as omni3

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CONVS = {"conv_dim": (8, 8), "conv_stride": (160, 2), "conv_kernel": (200, 3), "num_conv_pos_embedding_groups": 2}
WAVE = {**SMALL, **CONVS, "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "feat_extract_norm": "layer"}
SEQ = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
WHISPER = {**SEQ, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "vocab_size": 60}
WHISPER |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
TOWER = {**SEQ, "num_mel_bins": 80}
TEXT = {"vocab_size": 99, "num_key_value_heads": 2, **SMALL}
FAST = {**SMALL, "subsampling_conv_channels": 8, "num_mel_bins": 80}
UNIT = {"vocab_size": 60, "t2u_vocab_size": 60, "hidden_size": 16, "feature_projection_input_dim": 160}
UNIT |= {f"{part}encoder_layers": 1 for part in ("", "speech_", "t2u_")} | {
    "decoder_layers": 1,
    "t2u_decoder_layers": 1,
}
UNIT |= {f"{part}coder_attention_heads": 2 for part in ("en", "de", "speech_en", "t2u_en", "t2u_de")}
UNIT |= {f"{part}coder_ffn_dim": 16 for part in ("en", "de", "t2u_en", "t2u_de")} | {
    "speech_encoder_intermediate_size": 16
}

samples = partial(T.Wav2Vec2FeatureExtractor, do_normalize=True)
pairs = partial(T.SeamlessM4TFeatureExtractor, feature_size=80, num_mel_bins=80)


def _wav2vec2(**options: Any) -> T.PreTrainedModel:
    return T.Wav2Vec2Model(T.Wav2Vec2Config(**{**WAVE, **options}))


def _w2v_bert(**options: Any) -> T.PreTrainedModel:
    sizes = {**SMALL, "feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 3, "output_hidden_size": 16}
    return T.Wav2Vec2BertModel(T.Wav2Vec2BertConfig(**sizes, **options))


def _audio_llm(model: Any, config: Any, audio: dict[str, Any]) -> T.PreTrainedModel:
    return model(config(audio_config=audio, text_config={**TEXT, "model_type": "llama"}))


ENCODERS: dict[str, tuple[Callable[[], T.PreTrainedModel], Callable[[], Any]]] = {
    "whisper": (lambda: T.WhisperModel(T.WhisperConfig(**WHISPER, num_mel_bins=80)), T.WhisperFeatureExtractor),
    "whisper, 128 mel bins": (
        lambda: T.WhisperForConditionalGeneration(T.WhisperConfig(**WHISPER, num_mel_bins=128)),
        partial(T.WhisperFeatureExtractor, feature_size=128),
    ),
    "wav2vec2, group norm": (partial(_wav2vec2, feat_extract_norm="group"), samples),
    "wav2vec2, layer norm": (_wav2vec2, samples),
    "wav2vec2, stable layer norm": (partial(_wav2vec2, do_stable_layer_norm=True), samples),
    "wav2vec2, adapter": (partial(_wav2vec2, add_adapter=True, num_adapter_layers=2), samples),
    "wav2vec2, 25 frames a second": (partial(_wav2vec2, conv_stride=(160, 4)), samples),
    "MMS": (
        lambda: T.Wav2Vec2ForCTC(
            T.Wav2Vec2Config(**WAVE, vocab_size=40, do_stable_layer_norm=True, adapter_attn_dim=8)
        ),
        samples,
    ),
    "hubert": (lambda: T.HubertModel(T.HubertConfig(**WAVE)), samples),
    "wavlm": (lambda: T.WavLMModel(T.WavLMConfig(**WAVE)), samples),
    "wav2vec2-conformer": (
        lambda: T.Wav2Vec2ConformerModel(T.Wav2Vec2ConformerConfig(**WAVE, conv_depthwise_kernel_size=3)),
        samples,
    ),
    "data2vec-audio": (
        lambda: T.Data2VecAudioModel(
            T.Data2VecAudioConfig(**{**WAVE, "num_conv_pos_embeddings": 2}, conv_pos_kernel_size=3)
        ),
        samples,
    ),
    "unispeech": (lambda: T.UniSpeechModel(T.UniSpeechConfig(**WAVE)), samples),
    "unispeech-sat": (lambda: T.UniSpeechSatModel(T.UniSpeechSatConfig(**WAVE)), samples),
    "sew": (lambda: T.SEWModel(T.SEWConfig(**WAVE, squeeze_factor=2)), samples),
    "sew-d": (
        lambda: T.SEWDModel(T.SEWDConfig(**WAVE, squeeze_factor=2, max_position_embeddings=512, position_buckets=16)),
        samples,
    ),
    "w2v-BERT 2.0": (_w2v_bert, pairs),
    "w2v-BERT 2.0, adapter": (partial(_w2v_bert, add_adapter=True, num_adapter_layers=2), pairs),
    "SeamlessM4T": (lambda: T.SeamlessM4TModel(T.SeamlessM4TConfig(**UNIT)), pairs),
    "moonshine": (
        lambda: T.MoonshineModel(
            T.MoonshineConfig(
                vocab_size=60,
                hidden_size=16,
                intermediate_size=24,
                encoder_num_hidden_layers=1,
                decoder_num_hidden_layers=1,
                encoder_num_attention_heads=2,
                decoder_num_attention_heads=2,
                pad_token_id=0,
            )
        ),
        partial(T.Wav2Vec2FeatureExtractor, do_normalize=False),
    ),
    "parakeet CTC": (
        lambda: T.ParakeetForCTC(T.ParakeetCTCConfig(vocab_size=60, pad_token_id=59, encoder_config=FAST)),
        partial(T.ParakeetFeatureExtractor, feature_size=80),
    ),
    "parakeet encoder": (
        lambda: T.ParakeetEncoder(T.ParakeetEncoderConfig(**FAST)),
        partial(T.ParakeetFeatureExtractor, feature_size=80),
    ),
    "Speech2Text": (
        lambda: T.Speech2TextModel(
            T.Speech2TextConfig(
                **WHISPER, conv_channels=16, num_conv_layers=2, conv_kernel_sizes=(5, 5), input_feat_per_channel=80
            )
        ),
        T.Speech2TextFeatureExtractor,
    ),
    "Qwen2-Audio": (
        lambda: _audio_llm(T.Qwen2AudioForConditionalGeneration, T.Qwen2AudioConfig, TOWER),
        T.WhisperFeatureExtractor,
    ),
    "Qwen2-Audio's encoder": (
        lambda: T.Qwen2AudioEncoder(T.Qwen2AudioEncoderConfig(**TOWER)),
        T.WhisperFeatureExtractor,
    ),
    "Audio Flamingo 3": (
        lambda: _audio_llm(
            T.AudioFlamingo3ForConditionalGeneration, T.AudioFlamingo3Config, {**SMALL, "num_mel_bins": 80}
        ),
        T.WhisperFeatureExtractor,
    ),
    "Voxtral": (
        lambda: _audio_llm(T.VoxtralForConditionalGeneration, T.VoxtralConfig, {**SMALL, "num_mel_bins": 80}),
        T.WhisperFeatureExtractor,
    ),
    "Qwen2.5-Omni's encoder": (
        lambda: omni2.Qwen2_5OmniAudioEncoder(omni2.Qwen2_5OmniAudioEncoderConfig(**TOWER, output_dim=20)),
        T.WhisperFeatureExtractor,
    ),
    "Qwen3-Omni's encoder": (
        lambda: omni3.Qwen3OmniMoeAudioEncoder(
            omni3.Qwen3OmniMoeAudioEncoderConfig(**TOWER, output_dim=20, downsample_hidden_size=8)
        ),
        T.WhisperFeatureExtractor,
    ),
}
"""By a name for people: the model and its feature extractor."""


def save_encoder(directory: Path, name: str) -> Path:
    """A random encoder and its feature extractor below `directory`, with weights so large that mistakes show."""
    make_model, make_extractor = ENCODERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_model()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
    model.save_pretrained(directory)
    make_extractor().save_pretrained(directory)
    return directory
