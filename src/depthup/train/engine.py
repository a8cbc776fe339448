"""FSDP2 through Accelerate: what it needs from us, and what is refused before a weight is read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from depthup.errors import UserError

if TYPE_CHECKING:
    from depthup.config import Recipe
    from depthup.model.speech_lm import SpeechLM

CONFIG = "recipes/accelerate/fsdp2.yaml"


def shards() -> bool:
    """Whether `accelerate launch` was told to shard."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def check_engine(recipe: Recipe) -> None:
    """Refuse settings of `accelerate launch` that cannot work here. Raises UserError."""
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            f"DeepSpeed: its checkpoints fit no other engine, so it is not supported; {CONFIG} shards as well"
        )
    if not shards():
        return
    if os.environ.get("FSDP_VERSION") != "2":
        raise UserError(f"FSDP: only version 2 is supported; take {CONFIG}, or set fsdp_version: 2 in your own")
    if parse_flag_from_env("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise UserError(
            "fsdp_cpu_ram_efficient_loading: every process checks the base by a hash of its weights; set it to false"
        )
    if parse_flag_from_env("FSDP_ACTIVATION_CHECKPOINTING"):
        raise UserError("fsdp_activation_checkpointing: the recipe's train.gradient_checkpointing decides; set false")
    if recipe.replay.text and not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise UserError(f"replay.text under FSDP: torch {torch.__version__} cannot skip weights on some processes")
    if recipe.replay.text and "depth_upscale" in recipe.method and recipe.upscale.scope != "all":
        raise UserError(
            f"replay.text under FSDP: text passes layers of scope {recipe.upscale.scope} by, and processes would wait "
            "for each other for ever; train with torchrun alone (DDP)"
        )


def set_up(accelerator: Accelerator, model: SpeechLM, recipe: Recipe) -> None:
    """Before Accelerate shards `model`. Raises UserError where FSDP was asked for and Accelerate does without."""
    if not shards():
        return
    if not accelerator.is_fsdp2:
        raise UserError("FSDP: Accelerate shards over several GPUs only; train with torchrun (DDP) or in one process")
    if accelerator.mixed_precision == "bf16":
        # Accelerate's own would add up gradients in bfloat16 and round the loss to it.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        accelerator.state.fsdp_plugin.mixed_precision_policy = policy
    if recipe.replay.text:
        # Else gradients of text end at the first trained layer, and processes reduce theirs in different orders.
        model.enable_input_require_grads()


def reduce_unused(model: nn.Module) -> None:
    """Let a process whose batch is text add zeros to the gradients of the speech front end."""
    if isinstance(model, FSDPModule):
        model.set_reduce_scatter_unused_params(True)


def reshard(model: nn.Module) -> None:
    """Drop what a measurement has gathered: while it stands, parameters are rounded copies of the trained weights."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
