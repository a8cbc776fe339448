"""The draft: what the front end made out, as the LLM's own token embeddings, and what was heard at each token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import nn

from depthup.config import ConnectorConfig
from depthup.data.transcripts import spoken
from depthup.errors import UserError
from depthup.model.connectors.connector import Connector, Sizes, Speech
from depthup.model.ctc import CtcHead, spell_timed
from depthup.model.encoders.writer import Written

CERTAIN = 0.95
"""CTC outputs that are likelier than this are never sampled."""


@dataclass
class Draft:
    """What was made out in one recording, and where in what was heard: encoder frames, or a decoder's states."""

    text: str
    ids: list[int]
    """Tokens of the base's tokenizer; empty where nothing was made out."""
    starts: list[int]
    ends: list[int]
    """[starts, ends) are what each token was made out from; without tokens one range holds everything."""


class DraftConnector(Connector):
    """Reads a first transcript to the LLM: what the CTC head spells, or the encoder model's own decoder writes.

    Each token of it takes one position: the LLM's own embedding of the token, plus a projection, zero at the start, of
    what was heard there (encoder frames, or the decoder's states). So the model begins by reading what its front end
    made out, and training can only add what the recording and language know better. A recording in which nothing is
    made out takes one position, which holds what was heard alone. The LM loss does not reach the encoder.

    Needs a fast tokenizer, which tells where in a text each token stands; raises UserError otherwise.
    """

    positions_from_length = False
    teaches_encoder = False

    def __init__(self, config: ConnectorConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        if not sizes.ctc_outputs and not sizes.writes:
            raise UserError(
                "connector.name draft: nothing makes a draft; set train.front_end_steps or train.ctc_weight for a CTC "
                "head, or encoder.decoder for a Whisper's own"
            )
        self.ctc_head = CtcHead(sizes.encoder_width, sizes.ctc_outputs) if sizes.ctc_outputs else None
        width = sizes.encoder_width * config.slices
        self.norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, sizes.hidden)
        self.linear2 = nn.Linear(sizes.hidden, sizes.hidden)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)

    @cached_property
    def tokenizer(self) -> Any:
        tokenizer = self.sizes.tokenizer()
        if not tokenizer.is_fast:
            raise UserError(
                "connector.name draft: the base's tokenizer does not tell where its tokens stand in a text, as those "
                "of the `tokenizers` library do; use connector.name frames"
            )
        return tokenizer

    def ctc_states(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return frames, lengths

    def forward(
        self,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        embed: nn.Module,
        with_ctc: bool,
        written: Optional[Sequence[Written]] = None,
    ) -> Speech:
        spelled: tuple[Any, Any] = None, None
        if self.ctc_head is not None and (with_ctc or written is None):
            spelled = self.spelling(frames, lengths)
        if written is None:
            heard = frames.detach()
            drafts = self.read(spelled[0].detach(), spelled[1])
        else:
            # Of a recording in which nothing was written, its first frame.
            told = zip(written, frames.detach(), strict=True)
            states = [w.states if len(w.states) else frame[:1] for w, frame in told]
            heard = nn.utils.rnn.pad_sequence(states, batch_first=True)
            drafts = [self._written(w) for w in written]
        embeddings, counts = self._embed(drafts, heard, embed)
        return Speech(embeddings, counts, *spelled, texts=[draft.text for draft in drafts])

    def _embed(self, drafts: list[Draft], heard: torch.Tensor, embed: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Drafts, and what was heard [N, T, width] -> embeddings [N, L, hidden], lengths [N]."""
        counts = [len(draft.ends) for draft in drafts]
        ids, real, starts, ends = (
            _padded(rows, max(counts), heard.device)
            for rows in zip(*((d.ids, [1] * len(d.ids), d.starts, d.ends) for d in drafts), strict=True)
        )
        said = self._said(heard, starts, ends)
        embeddings = embed(ids) * real[..., None] + said.to(embed.weight.dtype)
        return embeddings, torch.tensor(counts, device=heard.device)

    def read(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> list[Draft]:
        """Drafts from log probabilities [N, O, 257]: the likeliest; in training sampled at `connector.temperature`."""
        sampled = self.training and self.config.temperature > 0
        paths = (sample_path(log_probs, self.config.temperature) if sampled else log_probs.argmax(-1)).tolist()
        return [self._spelled(path[:length]) for path, length in zip(paths, lengths.tolist(), strict=True)]

    def _spelled(self, path: list[int]) -> Draft:
        """Each token's frames go halfway to its neighbours', so that no frame is left out."""
        outputs = self.sizes.ctc_outputs
        frames = len(path) // outputs
        text, times = spell_timed(path)
        if not text:
            return Draft("", [], [0], [frames])
        ids, spans = self._tokens(text)
        following = [times[start] for start, _ in spans[1:]]
        ends = [
            min(frames - 1, (times[stop - 1] + after) // 2 // outputs + 1)
            for (_, stop), after in zip(spans[:-1], following, strict=True)
        ]
        return Draft(text, ids, [0, *ends], [*ends, frames])

    def _written(self, written: Written) -> Draft:
        """Each token's states are those of the decoder's tokens that it shares a character with."""
        text, places = spoken(written.text) if self.sizes.spoken else _stripped(written.text)
        if not text:
            return Draft("", [], [0], [max(1, len(written.states))])
        ids, spans = self._tokens(text)
        units = [written.units[place] for place in places]
        return Draft(text, ids, [units[start] for start, _ in spans], [units[stop - 1] + 1 for _, stop in spans])

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of a text as it stands behind a space, and the characters [start, stop) of the text in each.

        The space before a word is not told with it: it was heard with the word before.
        """
        encoded = self.tokenizer(" " + text, add_special_tokens=False, return_offsets_mapping=True)
        spans = []
        for start, stop in encoded["offset_mapping"]:
            first = min(max(0, start - 1), len(text) - 1)
            first += text[first] == " "
            spans.append((first, max(first + 1, stop - 1)))
        return list(encoded["input_ids"]), spans

    def _said(self, heard: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """heard [N, T, width], starts and ends [N, L] -> [N, L, hidden]: means of each range's slices, projected."""
        starts = starts.clamp(max=heard.shape[1] - 1)
        ends = torch.maximum(ends, starts + 1)  # several tokens may share a frame
        slices = self.config.slices
        steps = torch.arange(slices + 1, device=ends.device)
        edges = starts[..., None] + (ends - starts)[..., None] * steps // slices  # [N, L, slices + 1]
        low = edges[..., :-1]
        high = torch.maximum(edges[..., 1:], low + 1)
        sums = F.pad(heard.float().cumsum(1), (0, 0, 1, 0))  # [N, T + 1, width]
        rows = torch.arange(len(heard), device=heard.device)[:, None, None]
        means = (sums[rows, high] - sums[rows, low]) / (high - low)[..., None]
        x = means.flatten(2).to(self.linear1.weight.dtype)
        return self.linear2(F.gelu(self.linear1(self.norm(x)))) * self.sizes.embedding_std


def sample_path(log_probs: torch.Tensor, temperature: float) -> torch.Tensor:
    """A class for each output [N, O], drawn from p ** (1 / temperature) where the likeliest is not certain.

    Drafts of recordings that the front end was trained on are better than those of new ones; so mistakes are drawn from
    its own doubts.
    """
    noise = -torch.empty_like(log_probs).exponential_().log()
    drawn = (log_probs / temperature + noise).argmax(-1)
    likeliest = log_probs.max(-1)
    return torch.where(likeliest.values.exp() > CERTAIN, likeliest.indices, drawn)


def _stripped(text: str) -> tuple[str, list[int]]:
    kept = text.strip()
    first = text.index(kept) if kept else 0
    return kept, list(range(first, first + len(kept)))


def _padded(rows: Iterable[list[int]], size: int, device: torch.device) -> torch.Tensor:
    return torch.tensor([row + [0] * (size - len(row)) for row in rows], device=device)
