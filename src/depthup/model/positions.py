"""Placeholders of speech in a batch of token ids, and what is put in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch

from depthup.model.connectors import Speech

IGNORE = -100
"""Label of positions without loss."""


@dataclass
class Heard:
    """A batch whose placeholders have given way to speech."""

    input_ids: torch.Tensor
    """[B, T], a placeholder at each position of speech."""
    inputs_embeds: torch.Tensor
    """[B, T, hidden]."""
    speech_ids: torch.Tensor
    """[B, T], 0 for text, else the number of the recording."""
    attention_mask: Optional[torch.Tensor]
    """[B, T]."""
    labels: Optional[torch.Tensor]
    """[B, T]."""
    speech: Speech


def grow(
    input_ids: torch.Tensor,
    is_speech: torch.Tensor,
    counts: torch.Tensor,
    attention_mask: Optional[torch.Tensor],
    labels: Optional[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, Optional[torch.Tensor]]:
    """Repeat each placeholder as often as its recording takes positions, and pad the rows anew.

    Args:
        input_ids, is_speech, attention_mask, labels: [B, T].
        counts: [N], positions of each placeholder in reading order.

    Returns input_ids, attention_mask and labels [B, T'].
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    # What was padding stays out, on the left where it stood there.
    left = bool((mask[:, 0] == 0).any()) or (labels is None and not bool((mask[:, -1] == 0).any()))
    repeats = (mask != 0).long().masked_scatter(is_speech, counts)
    source = torch.arange(input_ids.numel(), device=input_ids.device).repeat_interleave(repeats.flatten())
    sizes = repeats.sum(1)
    columns = torch.arange(int(sizes.max()), device=input_ids.device)
    first = (sizes.max() - sizes) if left else torch.zeros_like(sizes)
    real = (columns >= first[:, None]) & (columns < (first + sizes)[:, None])

    def fill(values: torch.Tensor, padding: int) -> torch.Tensor:
        return torch.full_like(real, padding, dtype=values.dtype).masked_scatter(real, values.flatten()[source])

    return fill(input_ids, 0), real.to(mask.dtype), None if labels is None else fill(labels, IGNORE)


def with_prompts(generated: Any, prompts: torch.Tensor, grown: int) -> Any:
    """What was generated behind prompts of length `grown`, behind the prompts [B, T] as they were given."""
    if grown == prompts.shape[1]:
        return generated
    rows = generated if isinstance(generated, torch.Tensor) else generated.sequences
    prompts = prompts.repeat_interleave(len(rows) // len(prompts), 0)
    rows = torch.cat([prompts, rows[:, grown:]], 1)
    if isinstance(generated, torch.Tensor):
        return rows
    generated.sequences = rows
    return generated
