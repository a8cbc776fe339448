"""What adaptation did to text: perplexity of base and adapted model, and how far their predictions lie apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from depthup.errors import UserError
from depthup.transcribe.batches import inference

KL_POSITIONS = 64


@dataclass
class TextReport:
    """Drift from the base on one text: `kl` in nats per token, `identical` if every logit is the same bit for bit."""

    kl: float
    top1_agreement: float
    identical: bool
    perplexity_base: float
    perplexity: float
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def text_report(
    model: Any, base: Any, tokenizer: Any, file: str | Path, row_tokens: int = 512, max_tokens: int | None = 8192
) -> TextReport:
    """Compare the adapted `model` with its `base` on the first `max_tokens` tokens of a UTF-8 text file.

    The text is cut into rows of `row_tokens` tokens without overlap; both models see each row alone, in the same shape.
    Perplexity counts the tokens that a row predicts (all but its first); KL(base || adapted) and agreement of the
    likeliest token count every position. Raises UserError if the file is missing, empty or not UTF-8.
    """
    nll, nll_base, kl, agreed = 0.0, 0.0, 0.0, 0
    identical = True
    tokens = predicted = 0
    with inference(model, base):
        for row in _rows(tokenizer, Path(file), row_tokens, max_tokens):
            ids = torch.tensor([row], device=model.device)
            logits = _logits(model, ids)
            expected = _logits(base, ids.to(base.device)).to(logits.device)
            nll += _nll(logits, ids[0])
            nll_base += _nll(expected, ids[0])
            if not torch.equal(logits, expected):
                identical = False
                kl += kl_divergence(expected, logits)
            agreed += int((logits.argmax(-1) == expected.argmax(-1)).sum())
            tokens += len(row)
            predicted += len(row) - 1
    return TextReport(
        kl=kl / tokens,
        top1_agreement=agreed / tokens,
        identical=identical,
        perplexity_base=math.exp(nll_base / predicted),
        perplexity=math.exp(nll / predicted),
        tokens=tokens,
    )


def _rows(tokenizer: Any, file: Path, row_tokens: int, max_tokens: int | None) -> Iterator[list[int]]:
    """Token ids of each row; a last row of a single token predicts nothing and is left out."""
    ids = tokenizer(read_text(file), add_special_tokens=False, verbose=False)["input_ids"][:max_tokens]
    if len(ids) < 2:
        raise UserError(f"{file}: holds {len(ids)} tokens, too few to measure text on; give a longer text")
    for first in range(0, len(ids) - 1, row_tokens):
        yield ids[first : first + row_tokens]


def read_text(file: Path) -> str:
    """What a UTF-8 file holds. Raises UserError."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text (byte {error.start}); convert it to UTF-8") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give a UTF-8 text file") from error


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of one row of ids [1, T]."""
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]


def _nll(logits: torch.Tensor, ids: torch.Tensor) -> float:
    """Sum of the negative log likelihoods (nats) of ids[1:] under logits [T, V]."""
    return float(F.cross_entropy(logits[:-1].float(), ids[1:], reduction="sum"))


def kl_divergence(base: torch.Tensor, adapted: torch.Tensor) -> float:
    """Sum over positions of KL(base || adapted) in nats, from logits [T, V]; a few positions at a time saves memory."""
    total = 0.0
    for p, q in zip(base.split(KL_POSITIONS), adapted.split(KL_POSITIONS), strict=True):
        log_p, log_q = p.float().log_softmax(-1), q.float().log_softmax(-1)
        # Rounding may take the divergence of nearly equal rows below zero.
        total += max(0.0, float(F.kl_div(log_q, log_p, log_target=True, reduction="sum")))
    return total
