"""From encoder frames to the LLM's embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from depthup.model.encoders.kind import frame_mask


class Projector(nn.Module):
    """Stacks neighbouring frames to the LLM's frame rate and projects them with two layers.

    The output is normalised to the scale of the base's token embeddings, without which training hardly starts.
    """

    def __init__(self, input_size: int, hidden_size: int, stack: int, embedding_std: float) -> None:
        super().__init__()
        self.stack = stack
        self.embedding_std = embedding_std
        self.norm = nn.LayerNorm(input_size * stack)
        self.linear1 = nn.Linear(input_size * stack, hidden_size)
        self.linear2 = nn.Linear(hidden_size, hidden_size)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return (lengths + self.stack - 1) // self.stack

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """frames [N, T, input size], lengths [N] -> embeddings [N, T / stack, hidden size], lengths [N]."""
        frames = frames * frame_mask(lengths, frames.shape[1])[..., None]
        frames = F.pad(frames, (0, 0, 0, -frames.shape[1] % self.stack))
        stacked = frames.reshape(frames.shape[0], -1, frames.shape[2] * self.stack)
        out = self.linear2(F.gelu(self.linear1(self.norm(stacked))))
        return F.rms_norm(out, out.shape[-1:]) * self.embedding_std, self.output_lengths(lengths)
