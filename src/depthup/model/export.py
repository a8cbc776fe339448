"""A checkpoint as others load it: with its base inside; or without depthup, as the base again or a plain deeper LLM."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Optional, Union

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn
from transformers import PreTrainedModel

from depthup import files
from depthup.errors import UserError
from depthup.model import checkpoint
from depthup.model.card import CARD, SCORES, card, licences_of, trained_on
from depthup.model.configuration import SpeechLMConfig
from depthup.model.encoders.writer import TOKENIZER
from depthup.model.hub import hub_name
from depthup.model.layers.inserted import InsertedLayer
from depthup.model.layers.kind import LayerKind
from depthup.model.loading import known_base, known_encoder
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.model.standalone import BASE, ENCODER, tensors_of
from depthup.model.stored import read

PROVED_ON = 8
"""Random embeddings on which a plain model must give the logits of ours before it is written."""


def export_standalone(
    run: Union[str, Path],
    directory: Union[str, Path],
    base: Optional[str] = None,
    encoder: Optional[str] = None,
    max_shard_size: Union[int, str] = "5GB",
) -> None:
    """Write a checkpoint that holds its base and encoder too, as they are stored, and names nothing of this machine.

    Args:
        run: directory or hub id of a checkpoint.
        base, encoder: where they stand now, if they have moved.
        max_shard_size: of a file of weights, such as "500MB".

    Raises UserError, among others where base or encoder are not those of `run`.
    """
    directory = files.new_directory(directory)
    source = checkpoint.find(run)
    config = SpeechLMConfig.kept_in(source)
    config.found_at(base or (str(source) if config.standalone else None), encoder)
    llm, frozen = known_base(source, config, "auto"), known_encoder(source, config)
    if frozen.kind.codebook_sizes:
        raise UserError(
            f"{source}: hears speech tokens, whose audio encoder and codec do not go into a checkpoint; share it as it "
            "is, with a base and a tokenizer named by their hub ids"
        )
    with torch.device("meta"):  # for its names and for the card
        model = SpeechLM(config)
    trained = checkpoint.trained_tensors(model)
    tensors = dict(read(source, trained))
    if config.method != "full":
        tensors |= tensors_of(llm, BASE)
    tensors |= {name: tensor for name, tensor in tensors_of(frozen, ENCODER).items() if name not in trained}
    processor = SpeechProcessor.kept_in(source)
    config.standalone, config.licences = True, config.licences or licences_of(config, ask_hub=True)
    config.trained_on = config.trained_on or trained_on(source)
    text = card(model, source)
    _name_for_others(config, llm, processor)
    with files.disk_guard(directory), files.written_whole(directory) as partial:
        partial.mkdir()
        (partial / CARD).write_text(text, encoding="utf-8")
        if (source / SCORES).is_file():  # so that what is measured later comes to it, and to the card
            shutil.copyfile(source / SCORES, partial / SCORES)
        config.save_pretrained(partial)
        llm.generation_config.save_pretrained(partial)
        if (writer := frozen.kind.writer) is not None:
            writer.tokenizer.backend_tokenizer.save(str(partial / TOKENIZER))
        processor.save_pretrained(partial)
        save_torch_state_dict(tensors, partial, max_shard_size=max_shard_size)


def _name_for_others(config: SpeechLMConfig, llm: PreTrainedModel, processor: SpeechProcessor) -> None:
    """Let configuration and processor name what is inside as everybody knows it."""
    config.base = hub_name(config.base) or Path(config.base).name
    config.base_config = (config.base_config or {}) | {"architectures": [type(llm).__name__]}
    for encoder in (config.encoder or {}, processor.encoder):
        encoder["name"] = hub_name(encoder["name"]) or Path(encoder["name"]).name


def export_base(run: Union[str, Path], directory: Union[str, Path], base: Optional[str] = None) -> None:
    """Write the base without any inserted layer or adapter, its weights as they are stored, and its tokenizer.

    `base` says where the base stands now, if it has moved. Raises UserError where the base's own weights were trained,
    and where the base is not the one of `run`.
    """
    directory = files.new_directory(directory)
    source = checkpoint.find(run)
    config = SpeechLMConfig.kept_in(source)
    if config.method == "full":
        raise UserError(f"{source}: method full trained the base's own weights, so it has no layers to drop")
    config.found_at(base or (str(source) if config.standalone else None))
    _write(known_base(source, config, "auto"), source, directory)


def export_llm(run: Union[str, Path], directory: Union[str, Path], **kwargs: Any) -> None:
    """Write the text LLM alone, as a plain model of the base's own class with the inserted layers among its own.

    It is in float32, like the trained weights, and gives the logits that the run gives. `kwargs` go to
    `SpeechLM.from_pretrained`. Raises UserError where no such model can do what the run's does.
    """
    directory = files.new_directory(directory)
    source = checkpoint.find(run)
    refuse_what_is_not_plain(SpeechLMConfig.kept_in(source), source)
    model = SpeechLM.from_pretrained(source, dtype="float32", **kwargs)
    hidden = model.llm.config.hidden_size
    embeds = torch.randn(1, PROVED_ON, hidden, generator=torch.Generator().manual_seed(0))
    embeds = embeds * model.config.base_embedding_std
    with torch.no_grad():
        ours = model(inputs_embeds=embeds).logits
        llm = plain_llm(model, source)
        theirs = llm(inputs_embeds=embeds).logits
    if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
        raise UserError(f"{source}: a plain {type(llm).__name__} gives other logits than this run; nothing was written")
    _write(llm, source, directory)


def is_plain(directory: Union[str, Path]) -> bool:
    """Whether the text LLM of a checkpoint is likely to be a plain one, by its configuration."""
    try:
        refuse_what_is_not_plain(SpeechLMConfig.kept_in(Path(directory)), Path(directory))
    except UserError:
        return False
    return True


def refuse_what_is_not_plain(config: SpeechLMConfig, source: Path) -> None:
    """Raise UserError for a model whose text LLM is more than layers of the base's own kind."""
    upscale, why = config.upscale_config, ""
    if "lora" in config.method:
        why = f"method {config.method} has adapters beside the base's layers"
    elif config.base_quantization != "none":
        why = f"its base is packed as {config.base_quantization}"
    elif upscale and type(upscale.kind).as_base_layer is LayerKind.as_base_layer:
        why = f"{upscale.layer} layers are not of the base's kind"
    elif upscale and upscale.scope != "all":
        why = f"scope {upscale.scope} leaves text to the base alone; --drop-layers writes that base"
    if why:
        raise UserError(f"{source}: is no plain LLM, {why}")


def plain_llm(model: SpeechLM, source: Path) -> PreTrainedModel:
    """The LLM of `model`, which it takes apart: each inserted layer gives way to the base's kind of layer inside it."""
    llm, decoder = model.llm, model.llm.get_decoder()
    inserted = [i for i, layer in enumerate(decoder.layers) if isinstance(layer, InsertedLayer)]
    for i in inserted:
        if _has_window(llm, i):
            raise UserError(
                f"{source}: is no plain LLM, its layer {i} attends to everything, where the base's class "
                "gives it a window"
            )
        decoder.layers[i] = model.config.upscale_config.kind.as_base_layer(decoder.layers[i].block)
    for i, layer in enumerate(decoder.layers):  # places in a cache, as in a model of that class
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = i
    return llm


def _has_window(llm: PreTrainedModel, index: int) -> bool:
    """Whether the base's class lets its layer of this index see the last positions only."""
    kinds = getattr(llm.config, "layer_types", None)
    if kinds:
        return kinds[index] != "full_attention"
    return bool(getattr(llm.config, "sliding_window", None))


def _write(llm: nn.Module, source: Path, directory: Path) -> None:
    """Model and tokenizer, whole or not at all."""
    tokenizer = SpeechProcessor.kept_in(source).tokenizer
    with files.disk_guard(directory), files.filled(directory, last="config.json") as partial:
        llm.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
