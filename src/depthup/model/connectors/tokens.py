"""Discrete speech tokens: new rows of the embedding table, one for each id of each stream, added up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from depthup.config import ConnectorConfig
from depthup.model.connectors.connector import Connector, Sizes
from depthup.model.ctc import CtcHead
from depthup.model.encoders.writer import frame_mask


class TokensConnector(Connector):
    """Vocabulary expansion: the embeddings of a frame's ids are added, and stand at its position of speech.

    The rows are in a table of their own, beside the LLM's, which stays as it is: so the text's rows are frozen by
    construction, and logits keep the base's own shape, since no speech token is ever predicted. Their sum begins at the
    scale of the base's embeddings. Of stacked frames each has rows of its own.

    The paper: Yano et al. 2026, 3.1, after OpusLM (arXiv 2506.17611).
    """

    of_tokens = True

    def __init__(self, config: ConnectorConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        streams = list(sizes.codebook_sizes) * sizes.frame_stack
        self.table = nn.Embedding(sum(streams), sizes.hidden)
        nn.init.normal_(self.table.weight, std=sizes.embedding_std / len(streams) ** 0.5)
        first = [sum(streams[:stream]) for stream in range(len(streams))]
        self.register_buffer("first", torch.tensor(first), persistent=False)
        self.ctc_head = CtcHead(sizes.hidden, sizes.ctc_outputs) if sizes.ctc_outputs else None

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return (lengths + self.sizes.frame_stack - 1) // self.sizes.frame_stack

    def ctc_states(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """frames [N, T, streams] are ids, negative where a stream has none."""
        real = frame_mask(lengths, frames.shape[1])[..., None] & (frames >= 0)
        padding = (0, 0, 0, -frames.shape[1] % self.sizes.frame_stack)
        shape = (-1, len(self.first))
        ids = F.pad(frames.masked_fill(~real, 0), padding).reshape(shape) + self.first
        weights = F.pad(real, padding).reshape(shape).to(self.table.weight.dtype)
        sums = F.embedding_bag(ids, self.table.weight, per_sample_weights=weights, mode="sum")
        return sums.reshape(frames.shape[0], -1, sums.shape[-1]), self.output_lengths(lengths)
