"""Spelling by CTC: a small head that writes the bytes of a transcript from what a speech encoder heard."""

from __future__ import annotations

import codecs

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 257
"""The blank, and after it every byte."""
BLANK = 0
UNKNOWN = -1
"""In the place of a transcript's length: nobody says what was said, and the clip counts nothing."""


class CtcHead(nn.Module):
    """Spells bytes from speech states, several outputs per state where states are fewer than bytes."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, outputs * CLASSES)

    def forward(self, states: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """states [N, L, width], lengths [N] -> log probabilities [N, L * outputs, 257] in float32, lengths [N].

        Class 0 is the blank, class b + 1 the byte b.
        """
        logits = self.linear(self.norm(states.to(self.linear.weight.dtype)))
        return logits.reshape(states.shape[0], -1, CLASSES).float().log_softmax(-1), lengths * self.outputs


def ctc_loss(
    log_probs: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, label_lengths: torch.Tensor
) -> torch.Tensor:
    """Mean CTC loss per byte (Graves et al. 2006) of log_probs [N, L, 257].

    Clips too short for their text count nothing. labels [N, bytes] hold bytes + 1, padded; lengths and label_lengths
    [N] say how much of each row is real, or that nothing is known of it.
    """
    known, sizes = label_lengths > UNKNOWN, label_lengths.clamp(min=0)
    each = F.ctc_loss(log_probs.transpose(0, 1), labels, lengths, sizes, reduction="none", zero_infinity=True)
    return (each / sizes.clamp(min=1) * known).sum() / known.sum().clamp(min=1)


def spell_timed(path: list[int]) -> tuple[str, list[int]]:
    """The text of one path of classes, repeats and blanks merged, and for each character the output that ended it.

    Bytes that are no UTF-8 are left out; so are spaces at the ends and all but the first of several.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    text, last = "", BLANK
    times: list[int] = []
    for output, symbol in enumerate(path):
        if symbol not in (BLANK, last):
            for character in decoder.decode(bytes([symbol - 1])):
                if not character.isspace():
                    text, times = text + character, [*times, output]
                elif text and text[-1] != " ":
                    text, times = text + " ", [*times, output]
        last = symbol
    kept = len(text.rstrip())
    return text[:kept], times[:kept]


def spell(log_probs: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    """The likeliest path's text for each row of log_probs [N, L, 257], of which lengths [N] are real."""
    paths = log_probs.argmax(-1).tolist()
    return [spell_timed(path[:length])[0] for path, length in zip(paths, lengths.tolist(), strict=True)]
