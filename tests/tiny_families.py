"""Tiny random configurations of the families of causal LMs in transformers, by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers as T
from tiny import SIZES
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

WITHOUT_HEAD = {key: value for key, value in SIZES.items() if key != "head_dim"}
HALF_SLIDING = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"] * 2}
LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_value_heads": 4}
LINEAR |= {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA = {"mamba_n_heads": 4, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
PER_LAYER = {
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": SIZES["vocab_size"],
    "num_kv_shared_layers": 0,
}
OLD = {"vocab_size": SIZES["vocab_size"], "hidden_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SEES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SEES |= {"image_size": 28, "patch_size": 14}
MULTI_LATENT = {
    **{key: value for key, value in WITHOUT_HEAD.items() if key != "num_key_value_heads"},
    **{"num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"n_group": 1, "topk_group": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4},
    **{"qk_nope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 1},
}


def _of(model_type: str, *sizes: dict[str, Any], **more: Any) -> Callable[[], PreTrainedConfig]:
    fields = {key: value for part in (*sizes, more) for key, value in part.items()}
    return partial(AutoConfig.for_model, model_type, **fields)


FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "Llama": _of("llama", SIZES),
    "Qwen2": _of("qwen2", WITHOUT_HEAD),
    "Qwen2, sliding": _of("qwen2", WITHOUT_HEAD, use_sliding_window=True, sliding_window=6, max_window_layers=2),
    "Qwen3": _of("qwen3", SIZES),
    "Gemma": _of("gemma", SIZES),
    "Gemma 2": _of("gemma2", SIZES, sliding_window=6, query_pre_attn_scalar=8),
    "Gemma 3": _of("gemma3_text", SIZES, HALF_SLIDING),
    "Gemma 3, with images": _of(
        "gemma3",
        text_config={**SIZES, **HALF_SLIDING},
        vision_config=SEES,
        mm_tokens_per_image=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "Gemma 3n": _of(
        "gemma3n_text",
        SIZES,
        HALF_SLIDING,
        PER_LAYER,
        laurel_rank=4,
        altup_num_inputs=2,
        activation_sparsity_pattern=None,
    ),
    "Gemma 4": _of("gemma4_text", SIZES, HALF_SLIDING, PER_LAYER, global_head_dim=8, num_global_key_value_heads=2),
    "Mistral": _of("mistral", SIZES, sliding_window=None),
    "Mistral, sliding": _of("mistral", SIZES, sliding_window=6),
    "Ministral": _of("ministral", SIZES, HALF_SLIDING),
    "Mistral 3, with images": _of(
        "mistral3",
        text_config={**SIZES, "model_type": "mistral", "sliding_window": None},
        vision_config={**SEES, "model_type": "pixtral"},
    ),
    "Phi": _of("phi", WITHOUT_HEAD),
    "Phi-3": _of("phi3", WITHOUT_HEAD),
    "Phi-3, sliding": _of("phi3", WITHOUT_HEAD, sliding_window=6),
    "SmolLM3": _of("smollm3", WITHOUT_HEAD, no_rope_layer_interval=2),
    "OLMo": _of("olmo", WITHOUT_HEAD),
    "OLMo 2": _of("olmo2", WITHOUT_HEAD),
    "OLMo 3": _of("olmo3", WITHOUT_HEAD, HALF_SLIDING),
    "Granite": _of(
        "granite",
        WITHOUT_HEAD,
        embedding_multiplier=12.0,
        attention_multiplier=0.1,
        residual_multiplier=0.22,
        logits_scaling=8.0,
    ),
    "Granite, experts": _of("granitemoe", WITHOUT_HEAD, LOCAL_EXPERTS),
    "Granite 4, hybrid": _of(
        "granitemoehybrid",
        WITHOUT_HEAD,
        MAMBA,
        num_local_experts=0,
        num_experts_per_tok=0,
        shared_intermediate_size=48,
        layer_types=["mamba", "attention"] * 2,
        mamba_d_head=16,
    ),
    "Command R": _of("cohere", WITHOUT_HEAD, logit_scale=0.25),
    "Command R7B": _of("cohere2", SIZES, HALF_SLIDING, logit_scale=0.25),
    "GPT-2": _of(
        "gpt2", vocab_size=SIZES["vocab_size"], n_embd=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2
    ),
    "GPT-NeoX": _of("gpt_neox", OLD, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4),
    "GPT-OSS": _of("gpt_oss", SIZES, HALF_SLIDING, LOCAL_EXPERTS),
    "Falcon": _of("falcon", OLD, num_hidden_layers=4, num_attention_heads=4),
    "Falcon-H1": _of("falcon_h1", SIZES, MAMBA, mamba_d_ssm=32, mamba_d_head=8),
    "StableLM": _of("stablelm", WITHOUT_HEAD),
    "StarCoder2": _of("starcoder2", WITHOUT_HEAD, sliding_window=None),
    "OPT": _of(
        "opt",
        OLD,
        ffn_dim=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=512,
    ),
    "BLOOM": _of("bloom", OLD, n_layer=4, n_head=4),
    "Qwen3, experts": _of("qwen3_moe", SIZES, EXPERTS),
    "Qwen3-Next": _of("qwen3_next", SIZES, EXPERTS, LINEAR, shared_expert_intermediate_size=16),
    "Qwen3.5": _of("qwen3_5_text", SIZES, LINEAR),
    "Qwen2.5-VL": _of(
        "qwen2_5_vl",
        text_config={
            **WITHOUT_HEAD,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
        },
        vision_config={**SEES, "out_hidden_size": 32, "depth": 1, "num_heads": 2},
    ),
    "Mixtral": _of("mixtral", SIZES, LOCAL_EXPERTS, sliding_window=None),
    "DeepSeek-V3": _of("deepseek_v3", MULTI_LATENT),
    "GLM-4": _of("glm4", SIZES),
    "EXAONE 4": _of("exaone4", WITHOUT_HEAD, sliding_window=6, sliding_window_pattern=2),
    "Helium": _of("helium", SIZES),
    "Llama 4": _of(
        "llama4_text",
        SIZES,
        intermediate_size_mlp=48,
        num_local_experts=2,
        num_experts_per_tok=1,
        attention_chunk_size=8,
    ),
    "Nemotron": _of("nemotron", SIZES),
    "Jamba": _of(
        "jamba",
        WITHOUT_HEAD,
        num_experts=2,
        num_experts_per_tok=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        use_mamba_kernels=False,
        mamba_d_state=4,
        mamba_dt_rank=4,
    ),
    "LFM2": _of("lfm2", WITHOUT_HEAD, layer_types=["conv", "full_attention"] * 2, block_ff_dim=48),
    "Mamba": _of("mamba", OLD, state_size=4, num_hidden_layers=4),
    "Mamba 2": _of("mamba2", OLD, state_size=4, num_hidden_layers=4, num_heads=8, head_dim=8, n_groups=1),
    "RecurrentGemma": _of("recurrent_gemma", SIZES, lru_width=32, attention_window_size=16),
    "RWKV": _of("rwkv", {key: value for key, value in OLD.items() if key != "pad_token_id"}, num_hidden_layers=4),
    "T5": lambda: T.T5Config(vocab_size=SIZES["vocab_size"], d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
}


def make_base(config: PreTrainedConfig) -> PreTrainedModel:
    """A random base, with weights so large that mistakes show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()
        with torch.no_grad():
            for parameter in base.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
    return base
