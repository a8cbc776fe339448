"""What to do with what is said: an instruction before a recording, with examples of how it is followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import jinja2
import numpy as np

from depthup.config import AUDIO_MARKER
from depthup.errors import UserError

OPENINGS = "\"'([{<“‘«"
"""After these, and after white space, written words follow without a space."""


@dataclass(frozen=True)
class Example:
    """What was said, as `text` or as `audio` (mono samples at the processor's rate), and the answer to it."""

    answer: str
    text: Optional[str] = None
    audio: Optional[np.ndarray] = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.audio is None):
            raise UserError("an example has either a text or audio, besides its answer")
        if AUDIO_MARKER in self.answer + (self.text or ""):
            raise UserError(f"an example is of plain text, without {AUDIO_MARKER}")


@dataclass(frozen=True)
class Instruction:
    """An instruction, and examples that show how it is followed (arXiv 2604.00489, table 3).

    `<|audio|>` in `text` is the recording's place; without it the recording comes after the text.
    """

    text: str
    examples: Sequence[Example] = ()

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise UserError("instruction: is empty; say what to do with what is said")
        if self.text.count(AUDIO_MARKER) > 1:
            raise UserError(f"instruction: has {AUDIO_MARKER} more than once, but there is one recording")

    def prompt(self, tokenizer: Any) -> str:
        """The text before an answer, with `<|audio|>` for every recording in it, that of the question last.

        Where the tokenizer has a chat template, the examples are earlier turns of a conversation; without one they
        stand above the question and look like it. Raises UserError where a template leaves recordings out.
        """
        question = self.text
        if AUDIO_MARKER not in question:
            question += f"\n{AUDIO_MARKER}" if tokenizer.chat_template else f"\nSpeech:{AUDIO_MARKER}\nAnswer:"
        turns = [(question if one.text is None else _written(question, one.text), one.answer) for one in self.examples]
        if not tokenizer.chat_template:
            return "\n\n".join([*(f"{asked} {answer}" for asked, answer in turns), question])
        messages = [
            {"role": role, "content": content}
            for turn in turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
        messages.append({"role": "user", "content": question})
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            raise UserError(f"instruction: the base's chat template refuses it ({error})") from error
        if text.count(AUDIO_MARKER) != len(self.clips) + 1:
            raise UserError("instruction: the base's chat template has no place for the recording; use another base")
        return text

    def written(self, tokenizer: Any, said: str) -> str:
        """The same with a written text where the question's recording stands, for a model that only reads.

        Raises UserError where an example is a recording too.
        """
        if self.clips:
            raise UserError("instruction: a model that reads cannot hear an example; give each a text instead of audio")
        return _written(self.prompt(tokenizer), said)

    @property
    def clips(self) -> list[np.ndarray]:
        """The recordings of the examples, in the order of their markers."""
        return [one.audio for one in self.examples if one.audio is not None]


def _written(prompt: str, said: str) -> str:
    """`said` in the last marker's place, after a space where the text before it needs one."""
    before, _, after = prompt.rpartition(AUDIO_MARKER)
    close = not before or before[-1].isspace() or before[-1] in OPENINGS
    return f"{before}{'' if close else ' '}{said}{after}"
