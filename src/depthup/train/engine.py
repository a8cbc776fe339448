"""FSDP2 and DeepSpeed through Accelerate: what they need from us, and what is refused before a weight is read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType, convert_outputs_to_fp32, parse_flag_from_env
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from depthup.errors import UserError
from depthup.model.base import resolve_dtype

if TYPE_CHECKING:
    from depthup.config import Recipe
    from depthup.model.speech_lm import SpeechLM

CONFIG = "recipes/accelerate/fsdp2.yaml"
DEEPSPEED = "recipes/accelerate/deepspeed.yaml"


def shards() -> bool:
    """Whether `accelerate launch` was told to shard."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def partitions() -> bool:
    """Whether `accelerate launch` was told to use DeepSpeed."""
    return parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")


def check_engine(recipe: Recipe) -> None:
    """Refuse settings of `accelerate launch` that cannot work here. Raises UserError."""
    if recipe.simulated_drafts.on and (partitions() or shards()):
        raise UserError("simulated_drafts: not under FSDP or DeepSpeed; train with torchrun alone (DDP)")
    if partitions():
        _check_deepspeed(recipe)
    if shards():
        _check_fsdp(recipe)


def _check_deepspeed(recipe: Recipe) -> None:
    if "ACCELERATE_DEEPSPEED_CONFIG_FILE" in os.environ:
        raise UserError(f"DeepSpeed: a deepspeed_config_file would contradict the recipe; take {DEEPSPEED}")
    if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") != "2":
        raise UserError(f"DeepSpeed: only zero_stage: 2 is supported; to shard weights too, take {CONFIG}")
    if os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none") != "none":
        raise UserError("DeepSpeed: offload_optimizer_device would replace the recipe's optimizer; set it to none")
    if recipe.replay.text:
        raise UserError(
            "replay.text under DeepSpeed: processes with text and with speech would add up gradients of different "
            f"weights; train with torchrun alone (DDP), or take {CONFIG}"
        )


def _check_fsdp(recipe: Recipe) -> None:
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
    """Before Accelerate wraps `model`. Raises UserError where Accelerate does without the engine that was asked for."""
    if partitions():
        # Accelerate says on a CPU too that it does, where DeepSpeed then asks for MPI.
        if accelerator.distributed_type != DistributedType.DEEPSPEED or not dist.is_initialized():
            raise UserError("DeepSpeed: Accelerate uses it on GPUs only; train with torchrun (DDP) or in one process")
        if resolve_dtype(recipe.dtype) == torch.bfloat16:
            # DeepSpeed's own would round the trained weights, which stay in float32 elsewhere.
            autocast = torch.autocast(accelerator.device.type, torch.bfloat16)
            model.forward = convert_outputs_to_fp32(autocast(model.forward))  # type: ignore[method-assign]
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
