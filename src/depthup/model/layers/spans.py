"""Where speech is in a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch


@dataclass
class Spans:
    """The speech spans of a batch, one row per span: N spans of at most L frames."""

    rows: torch.Tensor  # [N, L] batch row of each frame
    cols: torch.Tensor  # [N, L] column of each frame within this pass
    real: torch.Tensor  # [N, L] bool, false where a shorter span is padded
    attention_mask: Optional[torch.Tensor] = None
    """Both ways within a span, in the form the attention kernel wants."""

    @classmethod
    def find(cls, speech_ids: torch.Tensor) -> Optional[Spans]:
        """Runs of equal, positive `speech_ids` [B, T], in reading order; None where there are none."""
        rows, cols = torch.nonzero(speech_ids > 0, as_tuple=True)
        if len(rows) == 0:
            return None
        ids = speech_ids[rows, cols]
        new_span = torch.ones_like(rows, dtype=torch.bool)
        new_span[1:] = (rows[1:] != rows[:-1]) | (ids[1:] != ids[:-1]) | (cols[1:] != cols[:-1] + 1)
        span = new_span.cumsum(0) - 1
        lengths = torch.bincount(span)
        frame = torch.arange(len(rows), device=rows.device) - new_span.nonzero()[:, 0][span]
        real = torch.arange(int(lengths.max()), device=rows.device) < lengths[:, None]
        padded_rows, padded_cols = torch.zeros_like(real, dtype=torch.long), torch.zeros_like(real, dtype=torch.long)
        padded_rows[span, frame], padded_cols[span, frame] = rows, cols
        return cls(padded_rows, padded_cols, real)

    def gather(self, states: torch.Tensor) -> torch.Tensor:
        """[B, T, ...] -> [N, L, ...]."""
        return states[self.rows, self.cols]

    def scatter(self, states: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """[B, T, D] with the real frames of `update` [N, L, D] put in their places."""
        return states.index_put((self.rows[self.real], self.cols[self.real]), update[self.real].to(states.dtype))
