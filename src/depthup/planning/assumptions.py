"""What a plan must assume, since no recipe says it: each is an option, and all are printed with the plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from depthup.errors import UserError


def _assume(value: float, about: str) -> Any:
    return field(default=value, metadata={"about": about})


@dataclass(frozen=True)
class Assumptions:
    """Numbers behind a plan, with what they mean."""

    utilisation: float = _assume(0.35, "share of the GPU's peak that a step reaches; 0.2 to 0.5 is usual")
    clip_seconds: float = _assume(10.0, "length of the clips in a batch")
    padding: float = _assume(0.05, "padding in a clip, as a share of the batch's longest")
    words_per_second: float = _assume(2.5, "words spoken per second of audio")
    tokens_per_word: float = _assume(1.3, "tokens of the LLM per word of a transcript")
    bytes_per_word: float = _assume(6.0, "bytes per word, with its space, for the CTC head")
    prompt_tokens: int = _assume(8, "tokens of the prompt around the speech")
    overhead_gb: float = _assume(1.5, "GB per GPU for CUDA, its libraries and fragments; 0.8 or so on a CPU")

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise UserError(f"--utilisation {self.utilisation:g}: is a share of the peak, above 0 and at most 1")
        if not 0 <= self.padding < 1:
            raise UserError(f"--padding {self.padding:g}: is a share of a clip, from 0 to below 1")
        for name in ("clip_seconds", "words_per_second", "tokens_per_word", "bytes_per_word"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name):g}: must be positive")
        if self.prompt_tokens < 2 or self.overhead_gb < 0:
            raise UserError("--prompt-tokens must be at least 2 and --overhead-gb not negative")

    def answer_tokens(self, seconds: float) -> int:
        """Tokens of the transcript of a clip of `seconds`, and its end of sequence."""
        return max(1, round(seconds * self.words_per_second * self.tokens_per_word)) + 1


CONSTANTS = {
    "bytes of a trained weight": 4,
    "bytes of its gradient": 4,
    "bytes of its AdamW state": 8,
    "bytes that AdamW reads and writes, per trained weight": 28,
}
"""Bytes per parameter that follow from training in float32 with PyTorch's fused AdamW; it holds nothing in passing."""
WEIGHT, GRADIENT, ADAM, ADAM_TRAFFIC = CONSTANTS.values()
