"""What all connectors share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import nn

from depthup.config import ConnectorConfig
from depthup.model.ctc import CtcHead, ctc_loss, spell
from depthup.model.encoders.writer import Written


@dataclass
class Sizes:
    """What a connector stands between."""

    encoder_width: int
    hidden: int
    """Width of the LLM."""
    frame_stack: int
    """Encoder frames in a speech frame of the LLM."""
    ctc_outputs: int
    """CTC outputs per encoder frame for a draft, per stacked frame otherwise; 0 without a CTC head."""
    embedding_std: float
    """Standard deviation of the LLM's token embeddings."""
    tokenizer: Callable[[], Any]
    """Loads the base's tokenizer."""
    writes: bool = False
    """Whether the encoder has a decoder that writes drafts."""
    spoken: bool = False
    """Whether transcripts are lower case without punctuation."""
    codebook_sizes: Sequence[int] = ()
    """Ids in each stream [streams], where the encoder gives ids [N, T, streams]."""


@dataclass
class Speech:
    """What a connector made of N recordings."""

    embeddings: torch.Tensor
    """[N, L, hidden]."""
    lengths: torch.Tensor
    """[N], how much of L is real."""
    ctc_log_probs: Optional[torch.Tensor] = None
    """[N, O, 257] of the CTC head, where there is one and it was asked for."""
    ctc_lengths: Optional[torch.Tensor] = None
    """[N], how much of O is real."""
    texts: Optional[list[str]] = None
    """What the front end made out, where it made a draft."""

    def spelled(self) -> Optional[list[str]]:
        """What the CTC head spells, where it was asked."""
        if self.ctc_log_probs is None or self.ctc_lengths is None:
            return None
        return spell(self.ctc_log_probs, self.ctc_lengths)

    def made_out(self) -> list[str]:
        """The front end's own transcripts: its draft, or what the CTC head spells; empty where it makes none."""
        return self.texts or self.spelled() or [""] * len(self.lengths)


class Connector(nn.Module):
    """Encoder frames [N, T, encoder width] in, embeddings at the positions of speech out.

    The front end (encoder and connector) can learn to spell alone: the CTC head reads `ctc_states`, before any layer of
    the LLM. Subclasses give `ctc_states`.
    """

    positions_from_length = True
    """Whether a recording's length alone says how many positions it takes; else what is heard in it decides."""
    teaches_encoder = True
    """Whether the LM loss reaches the encoder."""
    of_tokens = False
    """Whether it takes ids instead of frames."""

    def __init__(self, config: ConnectorConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.ctc_head: Optional[CtcHead] = None

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Positions [N] of recordings of so many encoder frames [N], where their length alone decides."""
        raise NotImplementedError

    def ctc_states(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the CTC head reads [N, L, width], and lengths [N]."""
        raise NotImplementedError

    def forward(
        self,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        embed: nn.Module,
        with_ctc: bool,
        written: Optional[Sequence[Written]] = None,
    ) -> Speech:
        """What stands in the place of N recordings.

        Args:
            frames, lengths: [N, T, encoder width] and [N].
            embed: maps the LLM's tokens.
            with_ctc: whether the CTC head's outputs are wanted.
            written: what the encoder model's own decoder made out, where it has one.

        Unless a subclass makes something else of it, what the CTC head reads is what the LLM does.
        """
        states, lengths = self.ctc_states(frames, lengths)
        if self.ctc_head is None or not with_ctc:
            return Speech(states, lengths)
        return Speech(states, lengths, *self.ctc_head(states, lengths))

    def spelling_loss(
        self, frames: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, label_lengths: torch.Tensor
    ) -> torch.Tensor:
        """CTC loss alone; labels [N, bytes] as `ctc_loss` takes them."""
        return ctc_loss(*self.spelling(frames, lengths), labels, label_lengths)

    def spelling(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the CTC head writes: log probabilities [N, O, 257], lengths [N]."""
        assert self.ctc_head is not None
        return self.ctc_head(*self.ctc_states(frames, lengths))
