"""Proof that a base takes speech, and with layers just inserted computes what it did before, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Optional

import torch
from torch import nn
from transformers import PreTrainedModel

from depthup.config import Scope
from depthup.errors import UserError
from depthup.model.speech_context import SpeechContext
from depthup.model.upscale import inserted_layers

POSITIONS = 8
SPEECH = slice(2, 6)
"""Which of them are speech in the second of the two rows."""


@torch.no_grad()
def reads_embeddings(llm: PreTrainedModel) -> Optional[torch.Tensor]:
    """Logits of a base for two rows of eight embeddings from its own table, [2, 8, vocabulary]; None without weights.

    Raises UserError where it takes no embeddings, or gives other logits for them than for the tokens themselves.
    """
    if next(llm.parameters()).is_meta:
        return None
    ids, embeds = _sample(llm)
    try:
        with _evaluating(llm), _returns(llm) as in_tuples:
            from_ids = llm(input_ids=ids, use_cache=False).logits
            from_embeds = llm(inputs_embeds=embeds, use_cache=False).logits
    except Exception as error:
        raise UserError(f"base {_name(llm)}: takes no embeddings in the place of tokens ({_line(error)})") from error
    if not torch.equal(from_ids, from_embeds):
        raise UserError(
            f"base {_name(llm)}: gives other logits for embeddings than for the tokens they belong to, so text "
            "beside speech would be read wrongly; this family is not supported"
        )
    llm.layers_return_tuples = any(in_tuples)
    return from_embeds


@torch.no_grad()
def prove(llm: PreTrainedModel, before: Optional[torch.Tensor], scope: Scope, with_speech: bool) -> None:
    """Raise UserError unless the LLM with inserted layers gives the logits of `before`, text and speech alike.

    `with_speech` is false for layers that are meant to change speech from the start.
    """
    if before is None:
        return
    _, embeds = _sample(llm)
    speech_ids = torch.zeros(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    speech_ids[1, SPEECH] = 1
    for layer in inserted_layers(llm):
        layer.in_tuple = llm.layers_return_tuples
    try:
        context = SpeechContext.build(scope, speech_ids if with_speech else None, embeds, None, None, llm.config)
        with _evaluating(llm):
            after = llm(inputs_embeds=embeds, speech=context, use_cache=False).logits
    except Exception as error:
        raise UserError(f"base {_name(llm)}: does not run with inserted layers ({_line(error)})") from error
    if not torch.equal(before, after):
        off = (before - after).abs().max()
        raise UserError(
            f"base {_name(llm)}: with layers just inserted its logits are off by up to {off:.2g}, "
            "where they must be the same bit for bit; this family is not supported with these layers"
        )


def _sample(llm: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [2, 8] spread over the vocabulary, and their embeddings."""
    table = llm.get_input_embeddings()
    ids = torch.linspace(1, table.weight.shape[0] - 1, 2 * POSITIONS, device=table.weight.device).long()
    ids = ids.view(2, POSITIONS)
    return ids, table(ids)


@contextmanager
def _evaluating(llm: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in llm.modules()]
    llm.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _returns(llm: PreTrainedModel) -> Iterator[list[bool]]:
    """Collects whether the layers of a base put their states into tuples."""
    found: list[bool] = []

    def look(module: nn.Module, args: Any, output: Any, into: list[bool]) -> None:
        into.append(isinstance(output, tuple))

    layers = getattr(llm.get_decoder(), "layers", ())
    handles = [layer.register_forward_hook(partial(look, into=found)) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _name(llm: PreTrainedModel) -> str:
    return type(llm).__name__


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
