"""The draft: what the front end spelled, as the LLM's own token embeddings, and what the frames of each token say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from depthup.config import ConnectorConfig
from depthup.errors import UserError
from depthup.model.connectors.connector import Connector, Sizes, Speech
from depthup.model.ctc import CtcHead, spell_timed

CERTAIN = 0.95
"""Outputs whose likeliest class has more than this are never sampled."""


@dataclass
class Draft:
    """What was spelled in one recording."""

    ids: list[int]
    """Tokens of the base's tokenizer; empty where nothing was heard."""
    ends: list[int]
    """For each token the encoder frame before which its frames end; those of the first begin at 0."""


class DraftConnector(Connector):
    """Reads the CTC head's greedy text to the LLM.

    Each token of it takes one position: the LLM's own embedding of the token, plus a projection, zero at the start, of
    the encoder frames that it was spelled from. So the model begins by reading what its front end heard, and training
    can only add what frames and language know better. A recording in which nothing is spelled takes one position,
    which holds what its frames say. The encoder learns by CTC alone.

    Needs a fast tokenizer, which tells where in a text each token stands; raises UserError otherwise.
    """

    positions_from_length = False
    teaches_encoder = False

    def __init__(self, config: ConnectorConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        if not sizes.ctc_outputs:
            raise UserError(
                "connector.name draft: needs a CTC head that spells; set train.front_end_steps or train.ctc_weight"
            )
        self.ctc_head = CtcHead(sizes.encoder_width, sizes.ctc_outputs)
        width = sizes.encoder_width * config.slices
        self.norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, sizes.hidden)
        self.linear2 = nn.Linear(sizes.hidden, sizes.hidden)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)

    @cached_property
    def tokenizer(self) -> Any:
        tokenizer = self.sizes.tokenizer()
        if not tokenizer.is_fast:
            raise UserError(
                "connector.name draft: the base's tokenizer does not tell where its tokens stand in a text, as those "
                "of the `tokenizers` library do; use connector.name frames"
            )
        return tokenizer

    def ctc_states(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return frames, lengths

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor, embed: nn.Module, with_ctc: bool) -> Speech:
        log_probs, ctc_lengths = self.spelling(frames, lengths)
        drafts = self.read(log_probs.detach(), ctc_lengths)
        counts = torch.tensor([len(draft.ends) for draft in drafts], device=frames.device)
        ids, spelled, ends = (
            _padded(rows, int(counts.max()), frames.device)
            for rows in zip(*((d.ids, [1] * len(d.ids), d.ends) for d in drafts), strict=True)
        )
        said = self._said(frames.detach(), ends)
        embeddings = embed(ids) * spelled[..., None] + said.to(embed.weight.dtype)
        return Speech(embeddings, counts, log_probs, ctc_lengths)

    def read(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> list[Draft]:
        """Drafts from log probabilities [N, O, 257]: the likeliest; in training sampled at `connector.temperature`."""
        sampled = self.training and self.config.temperature > 0
        paths = (sample_path(log_probs, self.config.temperature) if sampled else log_probs.argmax(-1)).tolist()
        return [self._draft(path[:length]) for path, length in zip(paths, lengths.tolist(), strict=True)]

    def _draft(self, path: list[int]) -> Draft:
        """Each token's frames go halfway to its neighbours', so that no frame is left out."""
        outputs = self.sizes.ctc_outputs
        frames = len(path) // outputs
        text, times = spell_timed(path)
        if not text:
            return Draft([], [frames])
        encoded = self.tokenizer(" " + text, add_special_tokens=False, return_offsets_mapping=True)
        times = [times[0], *times]  # of the space before the first word
        ends: list[int] = []
        for _, stop in encoded["offset_mapping"][:-1]:
            here, following = times[max(0, stop - 1)], times[min(stop, len(times) - 1)]
            ends.append(min(frames - 1, (here + following) // 2 // outputs + 1))
        return Draft(list(encoded["input_ids"]), [*ends, frames])

    def _said(self, frames: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """frames [N, T, width], ends [N, L] -> [N, L, hidden]: each token's frames in slices, their means projected."""
        starts = F.pad(ends[:, :-1], (1, 0)).clamp(max=frames.shape[1] - 1)  # of positions that are padding
        ends = torch.maximum(ends, starts + 1)  # several tokens may share a frame
        slices = self.config.slices
        steps = torch.arange(slices + 1, device=ends.device)
        edges = starts[..., None] + (ends - starts)[..., None] * steps // slices  # [N, L, slices + 1]
        low = edges[..., :-1]
        high = torch.maximum(edges[..., 1:], low + 1)
        sums = F.pad(frames.float().cumsum(1), (0, 0, 1, 0))  # [N, T + 1, width]
        rows = torch.arange(len(frames), device=frames.device)[:, None, None]
        means = (sums[rows, high] - sums[rows, low]) / (high - low)[..., None]
        x = means.flatten(2).to(self.linear1.weight.dtype)
        return self.linear2(F.gelu(self.linear1(self.norm(x)))) * self.sizes.embedding_std


def sample_path(log_probs: torch.Tensor, temperature: float) -> torch.Tensor:
    """A class for each output [N, O], drawn from p ** (1 / temperature) where the likeliest is not certain.

    Drafts of recordings that the front end was trained on are better than those of new ones; so mistakes are drawn from
    its own doubts.
    """
    noise = -torch.empty_like(log_probs).exponential_().log()
    drawn = (log_probs / temperature + noise).argmax(-1)
    likeliest = log_probs.max(-1)
    return torch.where(likeliest.values.exp() > CERTAIN, likeliest.indices, drawn)


def _padded(rows: Iterable[list[int]], size: int, device: torch.device) -> torch.Tensor:
    return torch.tensor([row + [0] * (size - len(row)) for row in rows], device=device)
