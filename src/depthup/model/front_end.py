"""The front end of a speech LLM: recordings in, what stands at the positions of speech out, without the LLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional, Union

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from depthup.config import ConnectorConfig
from depthup.data.transcripts import spoken
from depthup.errors import UserError
from depthup.model.base import load_tokenizer
from depthup.model.connectors import CONNECTORS, Connector, Sizes, Speech
from depthup.model.ctc import UNKNOWN, CtcHead
from depthup.model.encoders.kind import SpeechEncoder
from depthup.model.encoders.writer import frame_mask
from depthup.model.positions import Heard, grow

CTC_SHARE = 0.3
"""Weight of the CTC loss beside a decoder's own."""


class FrontEnd(nn.Module):
    """The methods of `SpeechLM` that hear, with its encoder and its connector.

    From outside, modules are reached by the model's forward pass alone (`make_out`, `hear`), since FSDP gathers sharded
    weights for nothing else.
    """

    config: Any
    llm: Any
    encoder: SpeechEncoder
    connector: Connector

    def _make_connector(self, hidden: int) -> Connector:
        config = self.config
        settings, kind = ConnectorConfig(**(config.connector or {})), self.encoder.kind
        make = CONNECTORS[settings.name]
        if make.of_tokens != bool(kind.codebook_sizes):
            gives, other = ("tokens", "tokens") if kind.codebook_sizes else ("frames", "frames or draft")
            raise UserError(
                f"connector.name {settings.name}: the encoder {kind.config.name} gives {gives}; choose {other}"
            )
        sizes = Sizes(
            encoder_width=kind.output_size,
            hidden=hidden,
            frame_stack=config.frame_stack,
            ctc_outputs=config.ctc_outputs,
            embedding_std=config.base_embedding_std,
            tokenizer=lambda: load_tokenizer(*config.base_source),
            writes=kind.writer is not None,
            spoken=config.transcripts == "spoken",
            codebook_sizes=kind.codebook_sizes,
        )
        return make(settings, sizes)

    @property
    def ctc_head(self) -> Optional[CtcHead]:
        """The head that spells what the front end heard, where there is one."""
        return self.connector.ctc_head

    @property
    def ctc_rate(self) -> float:
        """Outputs of the CTC head for a second of speech."""
        return self.encoder.kind.frame_rate / self.config.frame_stack * self.config.ctc_outputs

    @property
    def reads_draft(self) -> bool:
        """Whether what the LLM is read is the front end's own transcript, rather than frames."""
        return not self.connector.positions_from_length

    @property
    def makes_out(self) -> bool:
        """Whether the front end alone can make out a transcript: by its CTC head, or the encoder's own decoder."""
        writes = self.encoder.kind.writer is not None and self.reads_draft
        return self.ctc_head is not None or writes

    def embed_speech(
        self,
        features: torch.Tensor,
        lengths: torch.Tensor,
        with_ctc: bool = False,
        languages: Optional[torch.Tensor] = None,
        guess: str = "",
    ) -> Speech:
        """input_features [N, L, F], input_lengths and input_languages [N] -> what stands at the positions of speech."""
        with self._as_trained(features.device):
            frames, lengths = self.encoder(features, lengths, self.connector.teaches_encoder or with_ctc)
            written = None
            if self.reads_draft:
                temperature = self.connector.config.temperature if self.training else 0.0
                pace = self.config.written_per_second
                written = self.encoder.write(frames, lengths, pace, temperature, languages, guess)
            speech = self.connector(_own(frames, lengths), lengths, self.get_input_embeddings(), with_ctc, written)
        return dataclasses.replace(speech, embeddings=speech.embeddings.to(self.llm.dtype))

    def front_end_loss(
        self, features: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, label_lengths: torch.Tensor
    ) -> torch.Tensor:
        """How badly the front end alone makes out transcripts, given as bytes + 1, labels [N, bytes], where known.

        The CTC loss; with the encoder model's own decoder its cross-entropy, and where there is a CTC head too, a share
        of the CTC loss (hybrid CTC/attention, Watanabe et al. 2017).
        """
        writer = self.encoder.kind.writer
        with self._as_trained(features.device):
            frames, lengths = self.encoder(features, lengths)
            spelled = None
            if self.ctc_head is not None:
                spelled = self.connector.spelling_loss(_own(frames, lengths), lengths, labels, label_lengths)
            if writer is None:
                assert spelled is not None
                return spelled
            pairs = zip(labels.tolist(), label_lengths.tolist(), strict=True)
            texts = [None if n == UNKNOWN else bytes(b - 1 for b in row[:n]).decode() for row, n in pairs]
            if self.config.transcripts == "spoken":
                texts = writer.styled(self.encoder.model, frames, lengths, texts)
            written = writer.loss(self.encoder.model, frames, lengths, texts)
            return written if spelled is None else written + CTC_SHARE * spelled

    def likelihoods(
        self,
        features: torch.Tensor,
        lengths: torch.Tensor,
        texts: Sequence[str],
        languages: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        """Log probability [N] that the encoder's own decoder gives to N transcripts of one recording [1, L, F]."""
        writer = self.encoder.kind.writer
        assert writer is not None
        with self._as_trained(features.device):
            frames, lengths = self.encoder(features, lengths)
            several = frames.expand(len(texts), -1, -1), lengths.expand(len(texts))
            told = languages.expand(len(texts)) if languages is not None else None
            if self.config.transcripts == "spoken":
                plain = [spoken(text)[0] for text in texts]
                texts = [text or "" for text in writer.styled(self.encoder.model, *several, plain, told)]
            return writer.likelihoods(self.encoder.model, *several, texts, told)

    def _front_end_alone(
        self,
        features: torch.Tensor,
        lengths: torch.Tensor,
        labels: Optional[torch.Tensor],
        label_lengths: Optional[torch.Tensor],
        languages: Optional[torch.Tensor],
        guess: str,
    ) -> Union[Speech, CausalLMOutputWithPast]:
        """What it makes of recordings, or with the bytes of transcripts its own loss."""
        if labels is None or label_lengths is None:
            return self.embed_speech(features, lengths, True, languages, guess)
        return CausalLMOutputWithPast(loss=self.front_end_loss(features, lengths, labels, label_lengths))

    def make_out(self, features: torch.Tensor, lengths: torch.Tensor) -> list[str]:
        """What the front end alone makes out in N recordings: its draft, or what the CTC head spells."""
        return self(input_features=features, input_lengths=lengths, front_end_only=True).made_out()

    def _as_trained(self, device: torch.device) -> AbstractContextManager:
        """The front end's weights are in float32; beside an LLM in bfloat16 they compute in it, as in training."""
        dtype = self.llm.dtype
        return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)

    def hear(
        self,
        input_ids: torch.Tensor,
        input_features: torch.Tensor,
        input_lengths: torch.Tensor,
        attention_mask: Optional[torch.Tensor] = None,
        labels: Optional[torch.Tensor] = None,
        with_ctc: bool = False,
        input_languages: Optional[torch.Tensor] = None,
        guess: str = "",
    ) -> Heard:
        """Put speech in the place of placeholders, one per frame, or one per recording that takes what it needs.

        Arguments are those of `forward`. Rows stay padded on the side on which they were; where none was, on the right
        with labels, else on the left. Raises ValueError when placeholders and speech do not match.
        """
        # By the forward pass, since sharded weights are gathered for that alone.
        return self(
            input_ids=input_ids,
            input_features=input_features,
            input_lengths=input_lengths,
            input_languages=input_languages,
            attention_mask=attention_mask,
            labels=labels,
            return_ctc=with_ctc,
            hear_only=True,
            guess=guess,
        )

    def _hear(
        self,
        input_ids: torch.Tensor,
        input_features: torch.Tensor,
        input_lengths: torch.Tensor,
        attention_mask: Optional[torch.Tensor],
        labels: Optional[torch.Tensor],
        with_ctc: bool,
        languages: Optional[torch.Tensor],
        guess: str,
    ) -> Heard:
        if torch.compiler.is_exporting():
            raise UserError(
                "torch.export: how many positions speech takes depends on it, so its shapes cannot be fixed; export "
                "text alone, or the LLM as plain layers with `depthup export RUN DIR --llm`"
            )
        speech = self.embed_speech(input_features, input_lengths, with_ctc, languages, guess)
        is_speech = input_ids == self.config.audio_token_id
        if self.reads_draft:
            if int(is_speech.sum()) != len(speech.lengths):
                raise ValueError(f"{int(is_speech.sum())} placeholders for {len(speech.lengths)} recordings")
            grown = grow(input_ids, is_speech, speech.lengths, attention_mask, labels)
            input_ids, attention_mask, labels = grown
            is_speech = input_ids == self.config.audio_token_id
        if int(is_speech.sum()) != int(speech.lengths.sum()):
            raise ValueError(
                f"{int(is_speech.sum())} placeholders in input_ids for {int(speech.lengths.sum())} speech frames"
            )
        real = frame_mask(speech.lengths, speech.embeddings.shape[1])
        embeds = self.get_input_embeddings()(input_ids.masked_fill(is_speech, 0))
        embeds = embeds.masked_scatter(is_speech[..., None], speech.embeddings[real].to(embeds.dtype))
        pieces = torch.arange(1, len(speech.lengths) + 1, device=input_ids.device)
        speech_ids = torch.zeros_like(input_ids).masked_scatter(is_speech, pieces.repeat_interleave(speech.lengths))
        return Heard(input_ids, embeds, speech_ids, attention_mask, labels, speech)


def _own(frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Frames [N, T, width] without the silence behind all clips."""
    return frames[:, : int(lengths.max())]
