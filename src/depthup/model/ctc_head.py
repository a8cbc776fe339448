"""A small head that spells transcripts from speech states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class CtcHead(nn.Module):
    """Spells bytes from speech states, several outputs per frame, since speech runs faster than the LLM's frames."""

    def __init__(self, hidden: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.norm = nn.LayerNorm(hidden)
        self.linear = nn.Linear(hidden, outputs * 257)

    def log_probs(self, states: torch.Tensor) -> torch.Tensor:
        """[N, L, hidden] -> [N, L * outputs, 257]; class 0 is the blank, class b + 1 the byte b."""
        logits = self.linear(self.norm(states.to(self.linear.weight.dtype)))
        return logits.reshape(states.shape[0], -1, 257).float().log_softmax(-1)

    def forward(
        self, states: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, label_lengths: torch.Tensor
    ) -> torch.Tensor:
        """Mean CTC loss per byte (Graves et al. 2006); clips too short for their text count nothing."""
        log_probs = self.log_probs(states).transpose(0, 1)
        return F.ctc_loss(log_probs, labels, lengths * self.outputs, label_lengths, zero_infinity=True)


def spell(log_probs: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    """The likeliest path's text for each row of log_probs [N, L, 257], of which lengths [N] are real."""
    texts = []
    for path, length in zip(log_probs.argmax(-1).tolist(), lengths.tolist(), strict=True):
        spelled = [c for i, c in enumerate(path[:length]) if c and (i == 0 or path[i - 1] != c)]
        texts.append(bytes(c - 1 for c in spelled).decode(errors="ignore").strip())
    return texts
