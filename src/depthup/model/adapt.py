"""What trains and what is frozen: `full`, `lora`, `depth_upscale`, or `depth_upscale+lora`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from depthup.config import LoraConfig, Method
from depthup.model.upscale import base_linears, inserted_layers, without_inserted


def adapt_llm(llm: PreTrainedModel, method: Method, lora: LoraConfig, seed: int = 0) -> None:
    """Decide which weights of an LLM, with layers inserted or not, train. LoRA adapters are added in place."""
    llm.requires_grad_(method == "full")
    if "lora" in method:
        add_lora(llm, lora, seed)
    for layer in inserted_layers(llm):
        layer.requires_grad_(True)


def add_lora(llm: PreTrainedModel, lora: LoraConfig, seed: int) -> None:
    """Put PEFT adapters on every linear of the base's own layers; they start as zero."""
    assert lora.rank != "matched", "a model's configuration holds the number"
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT divides by it
        lora_dropout=lora.dropout,
        target_modules=base_linears(llm),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, llm.get_decoder())


@contextmanager
def unadapted(llm: PreTrainedModel) -> Iterator[None]:
    """Within it an LLM is its base: inserted layers are not there, and adapters are off."""
    adapters: list[Any] = [m for m in llm.modules() if isinstance(m, LoraLayer)]
    for adapter in adapters:
        adapter.enable_adapters(False)
    try:
        with without_inserted(llm):
            yield
    finally:
        for adapter in adapters:
            adapter.enable_adapters(True)


@contextmanager
def adapters_for(llm: PreTrainedModel, has_speech: torch.Tensor) -> Iterator[None]:
    """Within it, LoRA adapters act on the rows where `has_speech` [B] is true and on no others."""
    layers: list[Any] = [m for m in llm.modules() if isinstance(m, LoraLayer)]
    if not layers or bool(has_speech.all()):
        yield
        return
    names = ["default" if row else "__base__" for row in has_speech.tolist()]
    handles = [m.register_forward_pre_hook(partial(_choose_rows, names=names), with_kwargs=True) for m in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _choose_rows(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "adapter_names": names}
