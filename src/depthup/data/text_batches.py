"""Batches of text between those of recordings."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch


class TextBatches(ABC):
    """Decides which batches are text, and makes them: `batch(k)` depends on the seed and on k alone."""

    stream: int
    """Tells its random choices from all others for a batch of the same number."""

    def __init__(self, share: float, seed: int, first_batch: int) -> None:
        """`share` of batches from `first_batch` on."""
        self.share, self.seed, self.first_batch = share, seed, first_batch

    def takes(self, number: int) -> bool:
        """Whether batch `number` is one of these."""
        return number >= self.first_batch and self._begun(number).random() < self.share

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and labels [rows, T], and `seconds` of audio: 0."""
        rng = self._begun(number)
        rng.random()  # the one that decided
        return {**self.made(rng), "seconds": torch.tensor(0.0)}

    @abstractmethod
    def made(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """A batch of the choices of `rng`."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all text."""

    def _begun(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number, self.stream])
