"""A recipe's model and batches without contents: everything has its shape and format, and takes no memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from depthup.config import Recipe
from depthup.data.replay import text_batch
from depthup.errors import UserError
from depthup.model.connectors.draft import Draft, DraftConnector
from depthup.model.encoders.writer import Writer, Written
from depthup.model.positions import IGNORE
from depthup.model.speech_lm import SpeechLM
from depthup.planning.assumptions import Assumptions

TOKENS_BEFORE_SPEECH = 2

Batch = dict[str, Any]


def build(recipe: Recipe) -> SpeechLM:
    """The recipe's model from configurations alone, on the meta device. Raises UserError."""
    with torch.device("meta"):
        return SpeechLM.from_recipe(recipe, load_weights=False)


def drop_contents(module: nn.Module, llm: nn.Module, frozen: torch.dtype, mode: FakeTensorMode) -> None:
    """Replace weights and buffers by fake ones on the CPU: frozen ones of `llm` in format `frozen`, others float32."""
    stay = {id(p) for p in llm.parameters() if not p.requires_grad}
    originals = [*module.parameters(), *module.buffers()]  # held, so that their ids stay theirs
    made: dict[int, torch.Tensor] = {}
    for tensor in originals:
        is_weight = isinstance(tensor, nn.Parameter)
        dtype = (frozen if id(tensor) in stay else torch.float32) if is_weight else tensor.dtype
        with mode:
            fake = torch.empty(tensor.shape, dtype=dtype, device="cpu")
        made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_weight else fake
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            tensors.update({name: made[id(tensor)] for name, tensor in tensors.items() if tensor is not None})


def speech_batch(model: SpeechLM, recipe: Recipe, assumed: Assumptions, fullest: bool = False) -> tuple[Batch, float]:
    """A training batch of equal clips, all but the first of them padded, and its seconds of audio.

    Args:
        fullest: as many clips, but so long that they fill `data.batch_seconds`, and slowed down as far as augmentation
            slows any: what memory must be there for.

    Features are zeros [N, L, F] on the meta device; everything else is real. Raises UserError.
    """
    data, seconds = recipe.data, assumed.clip_seconds
    if not data.min_duration <= seconds <= data.max_duration:
        raise UserError(
            f"--clip-seconds {seconds:g}: the recipe takes clips from data.min_duration {data.min_duration:g} to "
            f"data.max_duration {data.max_duration:g} s"
        )
    clips = min(data.max_batch_clips, max(1, int(data.batch_seconds // seconds)))
    if fullest:
        seconds = max(seconds, min(data.batch_seconds / clips, data.max_duration)) / min([1.0, *recipe.augment.speed])
    kind = model.encoder.kind
    rate, size = kind.feature_rate, kind.feature_size
    dtype = torch.long if kind.codebook_sizes else torch.float32
    lengths = torch.full((clips,), round(seconds * rate))
    lengths[1:] = round(seconds * (1 - assumed.padding) * rate)
    longest = kind.padded_length or int(lengths.max())
    answer = assumed.answer_tokens(seconds)
    encoded = kind.output_lengths(lengths)
    if isinstance(model.connector, DraftConnector):
        # In place of what would be made out.
        model.connector.read = partial(_drafts, answer, model.config.ctc_outputs)  # type: ignore[method-assign]
        model.connector._written = lambda written: _draft(answer, answer)  # type: ignore[method-assign]
        if kind.writer is not None:
            kind.writer = SilentWriter(kind.writer, answer)
        frames = torch.ones_like(encoded)
    else:
        frames = model.connector.output_lengths(encoded)
    columns = int(frames.max()) + assumed.prompt_tokens + answer
    ids = torch.ones(clips, columns, dtype=torch.long)
    place = torch.arange(columns)
    ends = (frames + assumed.prompt_tokens)[:, None]
    is_speech = (place >= TOKENS_BEFORE_SPEECH) & (place < TOKENS_BEFORE_SPEECH + frames[:, None])
    batch: Batch = {
        "input_ids": ids.masked_fill(is_speech, model.config.audio_token_id),
        "attention_mask": (place < ends + answer).long(),
        "input_features": torch.zeros(clips, longest, size, dtype=dtype, device="meta"),
        "input_lengths": lengths,
        "labels": torch.where((place >= ends) & (place < ends + answer), ids, IGNORE),
    }
    if model.makes_out:
        spelled = max(1, round(seconds * assumed.words_per_second * assumed.bytes_per_word))
        batch["ctc_labels"] = torch.ones(clips, spelled, dtype=torch.long)
        batch["ctc_label_lengths"] = torch.full((clips,), spelled)
    return batch, float(lengths.sum()) / rate


class SilentWriter(Writer):
    """A decoder that learns transcripts of so many tokens. It writes nothing: what drafts cost is not counted."""

    def __init__(self, writer: Writer, answer: int) -> None:
        super().__init__(writer.config, writer.hf_config, writer.counts)
        self.answer = answer

    def beginning(self, model: Any, frames: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.zeros(len(frames), 4 if self.config.language else 2, dtype=torch.long)

    def tokens(self, text: str) -> list[int]:
        return [0] * self.answer

    def styled(self, model: Any, frames: torch.Tensor, lengths: torch.Tensor, texts: Any, *_: Any) -> Any:
        with torch.no_grad():
            self.teacher_forced(model, frames, lengths, texts)
        return texts

    def write(self, model: Any, frames: torch.Tensor, *_: Any) -> Any:
        return [Written("", [], frames.new_zeros(self.answer, frames.shape[-1])) for _ in frames]


def _drafts(tokens: int, outputs: int, log_probs: torch.Tensor, lengths: torch.Tensor) -> list[Draft]:
    return [_draft(tokens, max(1, length // outputs)) for length in lengths.tolist()]


def _draft(tokens: int, states: int) -> Draft:
    """A draft of as many tokens as the transcript has, made out from so many frames or states."""
    return Draft("", [0] * tokens, [0] * tokens, [states] * tokens)


def replayed_batch(recipe: Recipe) -> Batch:
    """A batch of replayed text, as `TextReplay` makes them."""
    replay = recipe.replay
    return text_batch(torch.ones(replay.batch_tokens // replay.row_tokens, replay.row_tokens, dtype=torch.long))


def simulated_batch(recipe: Recipe, assumed: Assumptions) -> Batch:
    """A batch of simulated drafts, each as long as the transcript of a clip."""
    told = assumed.answer_tokens(assumed.clip_seconds)
    ids = torch.ones(recipe.simulated_drafts.batch_texts, assumed.prompt_tokens + 2 * told, dtype=torch.long)
    place = torch.arange(ids.shape[1]).expand_as(ids)
    is_draft = (place >= TOKENS_BEFORE_SPEECH) & (place < TOKENS_BEFORE_SPEECH + told)
    labels = ids.masked_fill(place < assumed.prompt_tokens + told, IGNORE)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "speech_ids": is_draft.long(), "labels": labels}
