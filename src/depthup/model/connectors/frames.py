"""Continuous frames: neighbours stacked, projected, normalised to the scale of the LLM's embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from depthup.config import ConnectorConfig
from depthup.model.connectors.connector import Connector, Sizes
from depthup.model.ctc import CtcHead
from depthup.model.encoders.writer import frame_mask


class FramesConnector(Connector):
    """Stacks neighbouring frames to the LLM's frame rate and projects them with two layers.

    The output is normalised to the scale of the base's token embeddings, without which training hardly starts. The CTC
    head reads it, so that what enters the LLM is near text already.
    """

    def __init__(self, config: ConnectorConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        stacked, hidden = sizes.encoder_width * sizes.frame_stack, sizes.hidden
        self.norm = nn.LayerNorm(stacked)
        self.linear1 = nn.Linear(stacked, hidden)
        self.linear2 = nn.Linear(hidden, hidden)
        self.ctc_head = CtcHead(hidden, sizes.ctc_outputs) if sizes.ctc_outputs else None

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return (lengths + self.sizes.frame_stack - 1) // self.sizes.frame_stack

    def ctc_states(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stack = self.sizes.frame_stack
        frames = frames * frame_mask(lengths, frames.shape[1])[..., None]
        frames = F.pad(frames, (0, 0, 0, -frames.shape[1] % stack))
        stacked = frames.reshape(frames.shape[0], -1, frames.shape[2] * stack)
        out = self.linear2(F.gelu(self.linear1(self.norm(stacked.to(self.norm.weight.dtype)))))
        return F.rms_norm(out, out.shape[-1:]) * self.sizes.embedding_std, self.output_lengths(lengths)
