"""The silence after a clip with which Whisper was trained, by few frames that count for many.

Whisper heard every clip with silence up to 30 s behind it; on the clip alone its decoder does not find the end. In that
silence all frames are alike but for their position, so one of them stands for its neighbours: it is attended to as if
it were there as many times, by the logarithm of their number on the attention's scores. A clip of 5 s is then 300
frames instead of 1,500, and what Whisper writes is as good (docs/real-speech.md).
"""

from __future__ import annotations

import torch

NEAR, STRIDE = 8, 32
"""Frames of silence just behind a clip that stand for themselves; how many each later one stands for."""


def thinned(lengths: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of `size` frames are kept of clips of so many, lengths [N], and how many frames each stands for.

    Returns positions [N, K] and counts [N, K]: a row begins with its clip's own frames; a count of 0 is no frame.

        >>> positions, counts = thinned(torch.tensor([1400]), 1500)
        >>> positions.shape[1], int(counts.sum())
        (1411, 1500)
    """
    longest = int(lengths.max())
    columns = longest + NEAR + max(0, -(-(size - longest - NEAR) // STRIDE))
    column = torch.arange(columns, device=lengths.device)[None]
    edge = lengths[:, None] + NEAR
    far = column >= edge
    starts = torch.where(far, edge + (column - edge) * STRIDE, column)
    counts = torch.where(far, STRIDE, 1).minimum(size - starts).clamp(min=0)
    return (starts + counts // 2).clamp(max=size - 1), counts


def attention_bias(counts: torch.Tensor) -> torch.Tensor:
    """Counts [N, K] -> what is added to the scores of attention to frames, [N, 1, 1, K] in float32."""
    return counts.float().log()[:, None, None]
