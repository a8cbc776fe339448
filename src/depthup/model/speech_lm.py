"""A text LLM that hears: base model with inserted layers, speech encoder, connector."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from depthup.config import ConnectorConfig, LoraConfig, Recipe, Scope
from depthup.errors import UserError
from depthup.model.adapt import adapt_llm, adapters_for, unadapted
from depthup.model.base import embedding_std, load_base, load_base_config, load_tokenizer, resolve_dtype
from depthup.model.checkpointed import Checkpointed
from depthup.model.configuration import SpeechLMConfig, portable
from depthup.model.connectors import CONNECTORS, Connector, Sizes, Speech
from depthup.model.ctc import CtcHead, ctc_loss, spell
from depthup.model.encoders import encoder_kind, kept_kind, load_encoder_config
from depthup.model.encoders.kind import SpeechEncoder
from depthup.model.encoders.writer import frame_mask
from depthup.model.fingerprint import fingerprint
from depthup.model.identity import prove, reads_embeddings
from depthup.model.positions import IGNORE, Heard, grow, with_prompts
from depthup.model.processor import SpeechProcessor
from depthup.model.quantized import quantize
from depthup.model.remote_code import CodeFromPackage
from depthup.model.speech_context import NEVER, InsertedCacheLayer, SpeechContext, speech_start
from depthup.model.summary import ModelSummary, summarize
from depthup.model.upscale import base_config_of, insert_layers, inserted_layers
from depthup.registration import MODEL_TYPE

CTC_SHARE = 0.3
"""Of the CTC loss beside a decoder's own."""


@dataclass
class SpeechLMOutput(CausalLMOutputWithPast):
    """As any causal LM's, with what the CTC head spells: [N, L, 257], and how much of L is real [N]."""

    ctc_log_probs: Optional[torch.Tensor] = None
    ctc_lengths: Optional[torch.Tensor] = None


class SpeechLM(Checkpointed, CodeFromPackage, PreTrainedModel, GenerationMixin):
    """Any Hugging Face causal LM, adapted to speech.

    It owns no copy of the base's forward pass: inserted layers stand in the base's own list of layers, and learn
    through the keyword argument `speech` which positions are speech.
    """

    config_class = SpeechLMConfig
    base_model_prefix = "llm"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self, config: SpeechLMConfig, llm: Optional[PreTrainedModel] = None, encoder: Optional[SpeechEncoder] = None
    ) -> None:
        """`llm` and `encoder` with their weights; without them they are built with random weights."""
        super().__init__(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.llm = llm if llm is not None else AutoModelForCausalLM.from_config(config.make_base_config())
            hidden = self.llm.get_input_embeddings().weight.shape[1]
            self.encoder = encoder or kept_kind(config.encoder, config.encoder_config).build(load_weights=False)
            self.connector = self._make_connector(hidden)
        self.base_parameters = sum(p.numel() for p in self.llm.parameters())
        upscale = config.upscale_config
        self.scope: Scope = upscale.scope if upscale else "all"
        before = reads_embeddings(self.llm)
        if upscale:
            insert_layers(self.llm, upscale, config.seed)
            prove(self.llm, before, self.scope, with_speech=upscale.kind.starts_as_identity)
        quantize(self.llm, config.base_quantization)  # after inserted layers have been copied from whole weights
        adapt_llm(self.llm, config.method, LoraConfig(**(config.lora or {})), config.seed)
        self.encoder.freeze()
        for parameter in self.parameters():
            if parameter.requires_grad:  # what trains does so in float32, whatever the frozen weights are kept in
                parameter.data = parameter.data.float()
        self.generation_config = self.llm.generation_config
        # FSDP's units: what a base declares may name classes that it does not hold.
        self._no_split_modules = sorted({type(layer).__name__ for layer in self.llm.get_decoder().layers})

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

    @classmethod
    def from_recipe(cls, recipe: Recipe, load_weights: bool = True) -> SpeechLM:
        """The model a recipe describes, before training.

        Without `load_weights` configurations are enough, from `configs` where the recipe names them, and all weights
        are random. Raises UserError.
        """
        configs = {} if load_weights else recipe.configs
        base_config = load_base_config(configs.get(recipe.base, recipe.base), recipe.base_revision)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            known = configs.get(recipe.encoder.name)
            kind = encoder_kind(recipe.encoder, load_encoder_config(known) if known else None)
            if not kind.has_mel and (recipe.augment.time_masks or recipe.augment.freq_masks):
                raise UserError(
                    f"augment.time_masks, augment.freq_masks: the encoder {recipe.encoder.name} hears samples, not "
                    "log-mel frames that could be masked; set them to 0"
                )
            encoder = kind.build(load_weights)
        counted = CONNECTORS[recipe.connector.name].positions_from_length
        stack = _frame_stack(kind.frame_rate, recipe.encoder.frame_rate) if counted else 1
        config = SpeechLMConfig.from_recipe(
            recipe,
            base_config,
            frame_stack=stack,
            encoder_config=portable(kind.hf_config.to_dict()) if kind.hf_config is not None else None,
            encoder_hash=encoder.fingerprint() if load_weights else None,
            ctc_outputs=_ctc_outputs(recipe, kind.frame_rate / stack),
        )
        if not load_weights:
            return cls(config, encoder=encoder)
        llm = load_base(recipe.base, recipe.base_revision, resolve_dtype(recipe.dtype))
        config.base_hash = fingerprint(llm)
        config.base_embedding_std = embedding_std(llm)
        return cls(config, llm, encoder)

    @property
    def keeps_text(self) -> bool:
        """Whether text-only input gives the base's logits bit for bit, by construction, whatever was trained."""
        method, lora = self.config.method, self.config.lora
        adapters_stay_out = "lora" not in method or bool(lora and lora["speech_only"])
        layers_stay_out = "depth_upscale" not in method or self.scope != "all"
        return method != "full" and adapters_stay_out and layers_stay_out

    @contextmanager
    def layers_dropped(self) -> Iterator[None]:
        """Within it this is the base exactly, whatever the scope: inserted layers are out and adapters off.

        Raises UserError for method `full`, which trained the base's own weights.
        """
        if self.config.method == "full":
            raise UserError("method full trained the base's own weights, so there are no layers to drop")
        upscale, lora = self.config.upscale, self.config.lora
        self.config.upscale = self.config.lora = None  # caches are then made for the base
        try:
            with unadapted(self.llm):
                yield
        finally:
            self.config.upscale, self.config.lora = upscale, lora

    def recompute_activations(self, within: Callable[[], AbstractContextManager] = nullcontext) -> None:
        """Keep less for the backward pass, in which layers run again, `within()` what they ran in before."""
        again = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), within())}
        self.gradient_checkpointing_enable(again)

    @property
    def ctc_rate(self) -> float:
        """Outputs of the CTC head for a second of speech."""
        return self.encoder.kind.frame_rate / self.config.frame_stack * self.config.ctc_outputs

    def new_cache(self) -> DynamicCache:
        """An empty cache: entries of the base's layers, and behind them those of inserted layers that need one."""
        cache = DynamicCache(config=base_config_of(self.llm))
        if self.config.upscale and self.scope != "speech":
            cache.layers += [InsertedCacheLayer() for _ in inserted_layers(self.llm)]
        return cache

    def get_input_embeddings(self) -> nn.Module:
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.llm.get_output_embeddings()

    def embed_speech(self, features: torch.Tensor, lengths: torch.Tensor, with_ctc: bool = False) -> Speech:
        """input_features [N, L, F], input_lengths [N] -> what stands at the positions of speech."""
        with self._as_trained(features.device):
            frames, lengths = self.encoder(features, lengths, self.connector.teaches_encoder or with_ctc)
            temperature = self.connector.config.temperature if self.training else 0.0
            written = None if self.connector.positions_from_length else self.encoder.write(frames, lengths, temperature)
            speech = self.connector(frames, lengths, self.get_input_embeddings(), with_ctc, written)
        return dataclasses.replace(speech, embeddings=speech.embeddings.to(self.llm.dtype))

    def front_end_loss(
        self, features: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, label_lengths: torch.Tensor
    ) -> torch.Tensor:
        """How badly the front end alone makes out transcripts, given as bytes + 1, labels [N, bytes].

        The CTC loss; with the encoder model's own decoder its cross-entropy, and a share of the CTC loss (hybrid
        CTC/attention, Watanabe et al. 2017).
        """
        writer = self.encoder.kind.writer
        with self._as_trained(features.device):
            frames, lengths = self.encoder(features, lengths)
            spelled = self.connector.spelling_loss(frames, lengths, labels, label_lengths)
            if writer is None:
                return spelled
            pairs = zip(labels.tolist(), label_lengths.tolist(), strict=True)
            texts = [bytes(b - 1 for b in row[:n]).decode() for row, n in pairs]
            return writer.loss(self.encoder.model, frames, lengths, texts) + CTC_SHARE * spelled

    def make_out(self, features: torch.Tensor, lengths: torch.Tensor) -> list[str]:
        """What the front end alone makes out in N recordings: its draft, or what the CTC head spells."""
        speech = self(input_features=features, input_lengths=lengths, front_end_only=True)
        if speech.texts is not None:
            return speech.texts
        assert speech.ctc_log_probs is not None and speech.ctc_lengths is not None
        return spell(speech.ctc_log_probs, speech.ctc_lengths)

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
            attention_mask=attention_mask,
            labels=labels,
            return_ctc=with_ctc,
            hear_only=True,
        )

    def _hear(
        self,
        input_ids: torch.Tensor,
        input_features: torch.Tensor,
        input_lengths: torch.Tensor,
        attention_mask: Optional[torch.Tensor],
        labels: Optional[torch.Tensor],
        with_ctc: bool,
    ) -> Heard:
        speech = self.embed_speech(input_features, input_lengths, with_ctc)
        is_speech = input_ids == self.config.audio_token_id
        if not self.connector.positions_from_length:
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

    def forward(
        self,
        input_ids: Optional[torch.Tensor] = None,
        attention_mask: Optional[torch.Tensor] = None,
        position_ids: Optional[torch.Tensor] = None,
        past_key_values: Optional[Cache] = None,
        inputs_embeds: Optional[torch.Tensor] = None,
        input_features: Optional[torch.Tensor] = None,
        input_lengths: Optional[torch.Tensor] = None,
        speech_ids: Optional[torch.Tensor] = None,
        labels: Optional[torch.Tensor] = None,
        ctc_labels: Optional[torch.Tensor] = None,
        ctc_label_lengths: Optional[torch.Tensor] = None,
        ctc_weight: float = 0.0,
        front_end_only: bool = False,
        hear_only: bool = False,
        num_items_in_batch: Union[int, torch.Tensor, None] = None,
        use_cache: Optional[bool] = None,
        logits_to_keep: Union[int, torch.Tensor] = 0,
        return_ctc: bool = False,
        **kwargs: Any,
    ) -> Union[CausalLMOutputWithPast, Speech, Heard]:
        """
        Args:
            input_ids: [B, T], with the placeholder id at each speech frame.
            attention_mask: [B, cached + T], 1 where a position is real.
            inputs_embeds: [B, T, hidden] instead of `input_ids` and features, with `speech_ids` [B, T] saying which
                positions are speech (the number of the audio piece) and which are text (0).
            input_features, input_lengths: [N, L, F] and [N], all audio pieces in reading order.
            labels: [B, T], -100 where there is no loss. Logits are then computed at labels only and not returned.
            ctc_labels, ctc_label_lengths: [N, L] bytes + 1 and [N], for the CTC head.
            ctc_weight: weight of the CTC loss.
            front_end_only: no LLM; the front end's own loss, or without `ctc_labels` the `Speech` it makes.
            hear_only: no LLM; the batch as `hear` gives it.
            num_items_in_batch: labels in all batches of an optimizer step, to average over.
            return_ctc: with speech and a CTC head, give a `SpeechLMOutput`.
        """
        if front_end_only:
            assert input_features is not None and input_lengths is not None
            if ctc_labels is None or ctc_label_lengths is None:
                return self.embed_speech(input_features, input_lengths, with_ctc=True)
            loss = self.front_end_loss(input_features, input_lengths, ctc_labels, ctc_label_lengths)
            return CausalLMOutputWithPast(loss=loss)
        if input_features is None and self._has_placeholders(input_ids, past_key_values):
            raise ValueError("input_ids hold placeholders of speech; give input_features and input_lengths too")
        speech: Optional[Speech] = None
        with_ctc = return_ctc or bool(ctc_weight)
        if input_features is not None:
            assert input_ids is not None and input_lengths is not None
            heard = self._hear(input_ids, input_features, input_lengths, attention_mask, labels, with_ctc)
            if hear_only:
                return heard
            inputs_embeds, speech_ids, speech = heard.inputs_embeds, heard.speech_ids, heard.speech
            attention_mask, labels, input_ids = heard.attention_mask, heard.labels, None
        if use_cache is None:
            use_cache = labels is None and self.llm.config.use_cache
        if use_cache and past_key_values is None:
            past_key_values = self.new_cache()  # made here, since the context is kept in it
        shape = inputs_embeds
        if shape is None:
            assert input_ids is not None
            shape = torch.empty(*input_ids.shape, 0, dtype=self.llm.dtype, device=input_ids.device)
        context = self._context(speech_ids, shape, attention_mask, past_key_values)
        inputs = {
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "speech": context,
            **kwargs,
        }
        with self._adapters(speech_ids, past_key_values, shape):
            if labels is None:
                outputs = self.llm(**inputs, logits_to_keep=logits_to_keep)
                return _with_ctc(outputs, speech) if return_ctc and speech is not None else outputs
            hidden = self.llm.get_decoder()(**inputs).last_hidden_state
        loss = self._label_loss(hidden, labels, num_items_in_batch)
        if ctc_weight and speech is not None and speech.ctc_log_probs is not None:
            share = 1.0 if num_items_in_batch is None else (labels != IGNORE).sum() / num_items_in_batch
            spelled = ctc_loss(speech.ctc_log_probs, speech.ctc_lengths, ctc_labels, ctc_label_lengths)
            loss = loss + ctc_weight * share * spelled
        return CausalLMOutputWithPast(loss=loss)

    def _has_placeholders(self, input_ids: Optional[torch.Tensor], cache: Optional[Cache]) -> bool:
        """Whether ids ask for speech; behind a cache they are generated, and no GPU is waited for to see that."""
        if input_ids is None or (not input_ids.is_cpu and cache is not None and int(cache.get_seq_length())):
            return False
        return bool((input_ids == self.config.audio_token_id).any())

    def _context(
        self,
        speech_ids: Optional[torch.Tensor],
        shape: torch.Tensor,
        attention_mask: Optional[torch.Tensor],
        cache: Optional[Cache],
    ) -> SpeechContext:
        scope = self.scope if self.config.upscale else "speech"
        return SpeechContext.build(scope, speech_ids, shape, attention_mask, cache, self.llm.config)

    @contextmanager
    def _adapters(
        self, speech_ids: Optional[torch.Tensor], cache: Optional[Cache], shape: torch.Tensor
    ) -> Iterator[None]:
        """LoRA on every row, or on rows with speech alone where the recipe says `lora.speech_only`."""
        if not (self.config.lora and self.config.lora["speech_only"]):
            yield
            return
        start = getattr(cache, "speech_start", None)
        if start is None:
            start = speech_start(speech_ids, None, 0, shape.shape[0], shape.device)
        with adapters_for(self.llm, start < NEVER):
            yield

    def _label_loss(
        self, hidden: torch.Tensor, labels: torch.Tensor, num_items: Union[int, torch.Tensor, None]
    ) -> torch.Tensor:
        """Cross-entropy of the next token; only positions that predict a label meet the LM head."""
        targets = labels[:, 1:]
        chosen = (targets != IGNORE) & (targets != self.config.audio_token_id)
        logits = self.llm.get_output_embeddings()(hidden[:, :-1][chosen]).float()
        config = self.llm.config
        if softcap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
            logits = softcap * torch.tanh(logits / softcap)
        logits = logits * getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
        total = F.cross_entropy(logits, targets[chosen], reduction="sum")
        return total / (chosen.sum().clamp(min=1) if num_items is None else num_items)

    def generate(self, input_ids: Optional[torch.Tensor] = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """As any causal LM's; speech is encoded once. Returned prompts hold pad ids where placeholders stood."""
        features, lengths = kwargs.pop("input_features", None), kwargs.pop("input_lengths", None)
        if features is not None:
            assert input_ids is not None
            heard = self.hear(input_ids, features, lengths, kwargs.get("attention_mask"))
            kwargs.update(inputs_embeds=heard.inputs_embeds, speech_ids=heard.speech_ids)
            if heard.attention_mask is not None:
                kwargs["attention_mask"] = heard.attention_mask
            pad = self.generation_config.pad_token_id or 0
            given = input_ids.masked_fill(input_ids == self.config.audio_token_id, pad)
            grown = heard.input_ids.masked_fill(heard.speech_ids > 0, pad)
            return with_prompts(super().generate(grown, **kwargs), given, grown.shape[1])
        return super().generate(input_ids, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: Optional[torch.Tensor] = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            inputs.pop("speech_ids", None)  # the prompt's; later steps are text
        if (speech_ids := inputs.get("speech_ids")) is not None:  # of what is not in the cache yet
            given = inputs.get("inputs_embeds")
            length = (inputs["input_ids"] if given is None else given).shape[1]
            inputs["speech_ids"] = speech_ids[:, -length:]
        if (mask := kwargs.get("attention_mask")) is not None:  # as it was given, not drawn up for a static cache
            inputs["attention_mask"] = mask
        return inputs

    def summary(self) -> ModelSummary:
        """What the model is made of and how much of it trains."""
        return summarize(self)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Refused: the placeholder of speech is the first id after the vocabulary, which new tokens would take."""
        raise UserError(
            "resize_token_embeddings: the id after the vocabulary means speech; add tokens to the base before"
        )


def _frame_stack(encoder_rate: float, wanted_rate: float) -> int:
    stack = max(1, round(encoder_rate / wanted_rate))
    if abs(encoder_rate / stack - wanted_rate) > 0.1:
        raise UserError(
            f"encoder.frame_rate {wanted_rate:g}: the encoder gives {encoder_rate:g} frames a second to stack; "
            f"choose {encoder_rate:g} divided by a whole number, such as {encoder_rate / stack:.4g}"
        )
    return stack


def _ctc_outputs(recipe: Recipe, frame_rate: float) -> int:
    wanted = recipe.train.ctc_weight > 0 or recipe.train.front_end_steps > 0 or recipe.init_part == "front_end"
    return max(1, round(recipe.train.ctc_rate / frame_rate)) if wanted else 0


def _with_ctc(outputs: CausalLMOutputWithPast, speech: Speech) -> SpeechLMOutput:
    return SpeechLMOutput(**outputs, ctc_log_probs=speech.ctc_log_probs, ctc_lengths=speech.ctc_lengths)


# In the place of `registration`'s stand-ins.
AutoConfig.register(MODEL_TYPE, SpeechLMConfig, exist_ok=True)
AutoProcessor.register(SpeechLMConfig, SpeechProcessor, exist_ok=True)
for auto_class in (AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq):
    auto_class.register(SpeechLMConfig, SpeechLM, exist_ok=True)
