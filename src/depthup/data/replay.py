"""Plain text between the recordings: rows of tokens for batches that keep text ability alive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from depthup.config import Recipe, ReplayConfig
from depthup.data.documents import documents
from depthup.data.text_batches import TextBatches
from depthup.errors import UserError
from depthup.model.positions import IGNORE


class TextReplay(TextBatches):
    """Rows of the text as it stands."""

    stream = 7

    def __init__(self, config: ReplayConfig, tokenizer: Any, seed: int, first_batch: int = 0) -> None:
        """Reads and tokenizes the text; batches before `first_batch` are never text. Raises UserError."""
        super().__init__(config.share, seed, first_batch)
        self.config = config
        ids = np.fromiter(_tokens(config, tokenizer), dtype=np.int32)
        rows = len(ids) // config.row_tokens
        if not rows:
            raise UserError(
                f"replay.text: {len(ids)} tokens in all, not one row of {config.row_tokens}; "
                "give more text or lower replay.row_tokens"
            )
        self.rows = ids[: rows * config.row_tokens].reshape(rows, config.row_tokens)

    def made(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and labels [rows, row_tokens]."""
        count = self.config.batch_tokens // self.config.row_tokens
        return text_batch(torch.from_numpy(self.rows[rng.integers(len(self.rows), size=count)].astype(np.int64)))

    def fingerprint(self) -> str:
        """A hash of all tokens."""
        return sha256(self.rows.tobytes()).hexdigest()


def refuse_idle(recipe: Recipe, keeps_text: bool) -> None:
    """Raises UserError where a recipe replays text to a model that keeps its text behaviour by construction."""
    if recipe.replay.text and keeps_text:
        raise UserError(
            f"replay.text: text never meets what {recipe.method} trains here, so nothing is forgotten; drop it"
        )


def text_batch(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """input_ids [B, T] with attention_mask and labels, of which the first of each row is predicted by nothing."""
    labels = ids.clone()
    labels[:, 0] = IGNORE
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def distillation(model: Any, base: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of KL(base || adapted) in nats over the tokens [B, T] of `inputs` that are predicted, B * (T - 1)."""
    with torch.no_grad():
        expected = base(**inputs, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    log_p = model(**inputs, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    return F.kl_div(log_p, expected, log_target=True, reduction="sum")


def _tokens(config: ReplayConfig, tokenizer: Any) -> Iterator[int]:
    """The tokens of all documents one after the other, each ended by the tokenizer's end of sequence."""
    left = config.max_tokens
    for document in documents(config.text, "replay.text"):
        ids: Sequence[int] = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        yield from [*ids, tokenizer.eos_token_id][:left]
        left -= len(ids) + 1
        if left <= 0:
            return
