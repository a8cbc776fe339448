"""A text LLM that hears: base model with inserted layers, speech encoder, connector."""

from __future__ import annotations

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

from depthup.config import LoraConfig, Recipe, Scope
from depthup.errors import UserError
from depthup.model.adapt import adapt_llm, adapters_for, unadapted
from depthup.model.attention_kernels import check_kernel, kernel_options
from depthup.model.base import embedding_std, llm_class, load_base, load_base_config, resolve_dtype
from depthup.model.checkpointed import Checkpointed
from depthup.model.configuration import SpeechLMConfig, ctc_outputs, frame_stack, portable
from depthup.model.connectors import CONNECTORS, Speech
from depthup.model.ctc import ctc_loss
from depthup.model.encoders import encoder_kind, kept_kind, load_encoder_config
from depthup.model.encoders.kind import SpeechEncoder
from depthup.model.fingerprint import fingerprint
from depthup.model.front_end import FrontEnd
from depthup.model.identity import prove, reads_embeddings
from depthup.model.positions import IGNORE, Heard, with_prompts
from depthup.model.processor import SpeechProcessor
from depthup.model.quantized import quantize
from depthup.model.remote_code import CodeFromPackage
from depthup.model.speech_context import NEVER, InsertedCacheLayer, SpeechContext, speech_start
from depthup.model.summary import ModelSummary, summarize
from depthup.model.upscale import base_config_of, insert_layers, inserted_layers
from depthup.registration import MODEL_TYPE


@dataclass
class SpeechLMOutput(CausalLMOutputWithPast):
    """As any causal LM's, with what the CTC head spells: [N, L, 257], and how much of L is real [N]."""

    ctc_log_probs: Optional[torch.Tensor] = None
    ctc_lengths: Optional[torch.Tensor] = None


class SpeechLM(FrontEnd, Checkpointed, CodeFromPackage, PreTrainedModel, GenerationMixin):
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
        stack = frame_stack(kind.frame_rate, recipe.encoder.frame_rate) if counted else 1
        config = SpeechLMConfig.from_recipe(
            recipe,
            base_config,
            frame_stack=stack,
            encoder_config=portable(kind.hf_config.to_dict()) if kind.hf_config is not None else None,
            encoder_hash=encoder.fingerprint() if load_weights else None,
            ctc_outputs=ctc_outputs(recipe, kind.frame_rate / stack),
        )
        if not load_weights:
            return cls(config, encoder=encoder)
        dtype = resolve_dtype(recipe.dtype)
        kernel = kernel_options(recipe.attn_implementation, llm_class(base_config), dtype)
        llm = load_base(recipe.base, recipe.base_revision, dtype, **kernel)
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

    def new_cache(self) -> DynamicCache:
        """An empty cache: entries of the base's layers, and behind them those of inserted layers that need one."""
        cache = DynamicCache(config=base_config_of(self.llm))
        if self.config.upscale and self.scope != "speech":
            cache.layers += [InsertedCacheLayer() for _ in inserted_layers(self.llm)]
        return cache

    def set_attn_implementation(self, attn_implementation: str, *args: Any, **kwargs: Any) -> None:
        """Choose the kernel of the LLM and its inserted layers; the encoder keeps its own. Raises UserError."""
        check_kernel(attn_implementation, type(self.llm), self.llm.dtype)
        self.llm.set_attn_implementation(attn_implementation, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.llm.get_output_embeddings()

    def forward(
        self,
        input_ids: Optional[torch.Tensor] = None,
        attention_mask: Optional[torch.Tensor] = None,
        position_ids: Optional[torch.Tensor] = None,
        past_key_values: Optional[Cache] = None,
        inputs_embeds: Optional[torch.Tensor] = None,
        input_features: Optional[torch.Tensor] = None,
        input_lengths: Optional[torch.Tensor] = None,
        input_languages: Optional[torch.Tensor] = None,
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
        guess: str = "",
        **kwargs: Any,
    ) -> Union[CausalLMOutputWithPast, Speech, Heard]:
        """
        Args:
            input_ids: [B, T], with the placeholder id at each speech frame.
            attention_mask: [B, cached + T], 1 where a position is real.
            inputs_embeds: [B, T, hidden] instead of `input_ids` and features.
            speech_ids: [B, T], without features: which positions are speech (the number of the audio piece) and which
                are text (0). Beside `input_ids` their tokens are a draft that was not heard but given.
            input_features: [N, L, F], all audio pieces in reading order.
            input_lengths: [N], how much of L is real.
            input_languages: [N] numbers of what a multilingual Whisper's decoder is told, negative for its own choice.
            labels: [B, T], -100 where there is no loss. Logits are then computed at labels only and not returned.
            ctc_labels: [N, L] bytes + 1 of what is said, for the CTC head.
            ctc_label_lengths: [N], how much of L is real, or -1 where nobody says what is said.
            ctc_weight: of the CTC head's loss.
            front_end_only: no LLM; the front end's own loss, or without `ctc_labels` the `Speech` it makes.
            hear_only: no LLM; the batch as `hear` gives it.
            num_items_in_batch: labels in all batches of an optimizer step, to average over.
            return_ctc: give a `SpeechLMOutput`, whose CTC is None without speech or a CTC head.
            guess: what may be said in a single recording, which a Whisper's decoder then writes in fewer passes.
        """
        if front_end_only:
            told = ctc_labels, ctc_label_lengths, input_languages, guess
            return self._front_end_alone(input_features, input_lengths, *told)
        speech: Optional[Speech] = None
        if input_features is not None:
            with_ctc = return_ctc or bool(ctc_weight)
            given = input_ids, input_features, input_lengths, attention_mask, labels, with_ctc, input_languages
            heard = self._hear(*given, guess)
            if hear_only:
                return heard
            input_ids, inputs_embeds, speech_ids, speech = None, heard.inputs_embeds, heard.speech_ids, heard.speech
            attention_mask, labels = heard.attention_mask, heard.labels
        else:
            self._refuse_placeholders(input_ids, past_key_values)
        inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask, **kwargs}
        inputs |= {"position_ids": position_ids, "past_key_values": past_key_values, "use_cache": use_cache}
        if labels is None:
            outputs = self._run_llm(inputs, speech_ids, logits_to_keep)
            return _with_ctc(outputs, speech) if return_ctc else outputs
        hidden = self._run_llm(inputs, speech_ids).last_hidden_state
        loss = self._label_loss(hidden, labels, num_items_in_batch)
        if ctc_weight and speech is not None and speech.ctc_log_probs is not None:
            share = 1.0 if num_items_in_batch is None else (labels != IGNORE).sum() / num_items_in_batch
            spelled = ctc_loss(speech.ctc_log_probs, speech.ctc_lengths, ctc_labels, ctc_label_lengths)
            loss = loss + ctc_weight * share * spelled
        return CausalLMOutputWithPast(loss=loss)

    def _run_llm(
        self,
        inputs: dict[str, Any],
        speech_ids: Optional[torch.Tensor],
        logits_to_keep: Union[int, torch.Tensor, None] = None,
    ) -> Any:
        """Outputs of the LLM; without `logits_to_keep` those of its decoder alone, as a loss at labels needs them."""
        if inputs["use_cache"] is None:
            inputs["use_cache"] = logits_to_keep is not None and self.llm.config.use_cache
        if inputs["use_cache"] and inputs["past_key_values"] is None:
            inputs["past_key_values"] = self.new_cache()  # made here, since the context is kept in it
        cache, shape, ids = inputs["past_key_values"], inputs["inputs_embeds"], inputs["input_ids"]
        if shape is None:
            shape = torch.empty(*ids.shape, 0, dtype=self.llm.dtype, device=ids.device)
        inputs["speech"] = self._context(speech_ids, shape, inputs["attention_mask"], cache)
        with self._adapters(speech_ids, cache, shape):
            if logits_to_keep is None:
                return self.llm.get_decoder()(**inputs)
            return self.llm(**inputs, logits_to_keep=logits_to_keep)

    def _refuse_placeholders(self, input_ids: Optional[torch.Tensor], cache: Optional[Cache]) -> None:
        """Ids without speech must not ask for it; behind a cache they are generated, and no GPU is asked."""
        if input_ids is None or torch.compiler.is_exporting():
            return
        if not input_ids.is_cpu and cache is not None and int(cache.get_seq_length()):
            return
        if (input_ids == self.config.audio_token_id).any():
            raise ValueError("input_ids hold placeholders of speech; give input_features and input_lengths too")

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
        speech = {name: kwargs.pop(f"input_{name}", None) for name in ("features", "lengths", "languages")}
        if speech["features"] is not None:
            _refuse_assistants(kwargs)
            assert input_ids is not None
            named = {f"input_{name}": value for name, value in speech.items()}
            heard = self.hear(input_ids, attention_mask=kwargs.get("attention_mask"), **named)
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


def _refuse_assistants(options: dict[str, Any]) -> None:
    """Raises UserError: what guesses tokens for it would guess without the recording, or spoil its cache."""
    given = [name for name in ("assistant_model", "assistant_early_exit") if options.get(name) is not None]
    if given:
        raise UserError(
            f"generate: {given[0]} does not hear; with speech give prompt_lookup_num_tokens, or let depthup.transcribe "
            "draft from what was spelled"
        )


def _with_ctc(outputs: CausalLMOutputWithPast, speech: Optional[Speech]) -> SpeechLMOutput:
    if speech is None:
        return SpeechLMOutput(**outputs)
    return SpeechLMOutput(**outputs, ctc_log_probs=speech.ctc_log_probs, ctc_lengths=speech.ctc_lengths)


# In the place of `registration`'s stand-ins.
AutoConfig.register(MODEL_TYPE, SpeechLMConfig, exist_ok=True)
AutoProcessor.register(SpeechLMConfig, SpeechProcessor, exist_ok=True)
for auto_class in (AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq):
    auto_class.register(SpeechLMConfig, SpeechLM, exist_ok=True)
