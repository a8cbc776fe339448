"""Drafts without recordings: texts as a front end might have misheard them, for an LLM that learns to read drafts.

Adaptation by text alone (TASU, arXiv 2511.03310, simulates a CTC's posteriors): there is far more text than speech.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import torch

from depthup.config import DataConfig, SimulatedDraftsConfig
from depthup.data.documents import documents
from depthup.data.text_batches import TextBatches
from depthup.data.transcripts import UNIT, transcript
from depthup.errors import UserError

if TYPE_CHECKING:
    from depthup.model.processor import SpeechProcessor

PIECES = re.compile(rf"{UNIT.pattern}|\s+")
"""What is mistaken for itself: a word, a character of a script without spaces, or the space between."""
SENTENCE = re.compile(r"(?<=[.!?\u2026\u3002])[\"')\u201d\u2019]*\s+|\n+")
OF_WORDS = {"alike": 0.55, "letters": 0.1, "lost": 0.25, "more": 0.1}
"""Mistakes of a decoder that knows how words are spelled."""
OF_LETTERS = {"alike": 0.1, "letters": 0.7, "lost": 0.15, "more": 0.05}
"""Mistakes of a CTC head, which spells as it hears."""
SOUNDS = {letter: group[0] for group in ("bfpv", "cgjkqsxz", "dt", "mn") for letter in group}
"""Consonants that are taken for each other, as Soundex groups them (Russell 1918)."""
SILENT = "aeiouyhw"


class SimulatedDrafts(TextBatches):
    """Sentences behind drafts of themselves."""

    stream = 8

    def __init__(
        self,
        config: SimulatedDraftsConfig,
        data: DataConfig,
        processor: SpeechProcessor,
        seed: int,
        first_batch: int = 0,
        own: Sequence[str] = (),
    ) -> None:
        """Reads the texts, and takes `own` beside them; batches before `first_batch` are never simulated.

        Raises UserError.
        """
        super().__init__(config.share, seed, first_batch)
        self.config, self.processor = config, processor
        self.texts = sorted(
            _sentences([*documents(config.text, "simulated_drafts.text"), *own], config, data), key=len
        )  # clips of a batch are of like length
        if not self.texts:
            raise UserError("simulated_drafts.text: no words in it; give plain text")
        self.mistakes = Mistakes(self.texts, OF_WORDS if processor.kind.writer is not None else OF_LETTERS)

    def made(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """What `processor.drafted_batch` gives."""
        count = min(self.config.batch_texts, len(self.texts))
        first = rng.integers(len(self.texts) - count + 1)
        texts = [self.texts[index] for index in range(first, first + count)]
        # Some recordings are heard without a mistake, others badly.
        rates = rng.uniform(0, 2 * self.config.word_errors, size=count)
        drafts = [self.mistakes.of(text, rate, rng) for text, rate in zip(texts, rates, strict=True)]
        return self.processor.drafted_batch(drafts, texts)

    def fingerprint(self) -> str:
        """A hash of all texts."""
        return sha256("\n".join(self.texts).encode()).hexdigest()


class Mistakes:
    """Writes a text as it might have been misheard, with the words and letters of other texts."""

    def __init__(self, texts: Iterable[str], shares: dict[str, float]) -> None:
        """`shares` of the kinds of mistakes, as `OF_WORDS` has them."""
        self.kinds, self.shares = list(shares), list(shares.values())
        self.words = [unit for text in texts for unit in PIECES.findall(text) if not unit.isspace()]
        sounds = defaultdict(set)
        for word in set(self.words):
            sounds[sound(word)].add(word)
        self.alike = {key: sorted(words) for key, words in sounds.items() if len(words) > 1}

    def of(self, text: str, rate: float, rng: np.random.Generator) -> str:
        """The text with mistakes in about `rate` of its words; never nothing at all."""
        units = [self._unit(unit, rate, rng) for unit in PIECES.findall(text)]
        return " ".join("".join(units).split()) or text

    def _unit(self, unit: str, rate: float, rng: np.random.Generator) -> str:
        if unit.isspace() or rng.random() >= rate:
            return unit
        kind = self.kinds[rng.choice(len(self.kinds), p=self.shares)]
        if kind == "lost":
            return ""
        if kind == "more":
            other = self.words[rng.integers(len(self.words))]
            return f"{unit} {other}" if len(unit) > 1 or unit.isascii() else unit + other
        if kind == "alike" and (others := [word for word in self.alike.get(sound(unit), ()) if word != unit]):
            return others[rng.integers(len(others))]
        return self._misspelled(unit, rng)

    def _misspelled(self, word: str, rng: np.random.Generator) -> str:
        place, other = rng.integers(len(word)), self.words[rng.integers(len(self.words))]
        letter = other[rng.integers(len(other))]
        change = rng.integers(3) if len(word) > 1 else 0  # a letter for another, one more, one less
        return word[:place] + (letter, letter + word[place], "")[change] + word[place + 1 :]


def sound(word: str) -> str:
    """What a word sounds like: its consonants by kind, and whether it begins with a vowel.

    >>> sound("beat") == sound("bead") == sound("pit"), sound("apt") == sound("bad")
    (True, False)
    """
    plain = [c for c in unicodedata.normalize("NFD", word.lower()) if not unicodedata.combining(c)]
    heard = ["a" if c in SILENT else SOUNDS.get(c, c) for c in plain if c != "'"]
    return "".join(c for place, c in enumerate(heard) if not place or (c != "a" and c != heard[place - 1]))


def _sentences(texts: Iterable[str], config: SimulatedDraftsConfig, data: DataConfig) -> Iterator[str]:
    """Sentences and lines as training transcripts would write them, the longest in pieces, as clips are cut too."""
    for text in texts:
        for sentence in SENTENCE.split(text):
            units = PIECES.findall(transcript(sentence, data))
            for first in range(0, len(units), 2 * config.max_words):
                if piece := "".join(units[first : first + 2 * config.max_words]).strip():
                    yield piece
