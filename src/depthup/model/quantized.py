"""A frozen base in 8 or 4 bits: its linears keep packed weights, unpacked for each product and again for its gradient.

`nf4` is bitsandbytes'. `int8` is our own, since bitsandbytes' rounds what goes through the layer as well, and torchao's
keeps the unpacked weight for the backward pass.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from depthup.config import Quantization
from depthup.errors import UserError
from depthup.model.upscale import base_linears

NF4_BLOCK, NF4_SCALES_BLOCK = 64, 256
"""Weights under one scale of 8 bits, and scales under one of 32 bits: bitsandbytes' double quantisation."""


def quantize(llm: PreTrainedModel, kind: Quantization) -> None:
    """Pack the linears of the base's own layers in place; inserted layers, norms, embeddings and LM head stay whole.

    On the meta device nothing is packed, for there is nothing. Raises UserError where bitsandbytes is missing.
    """
    decoder = llm.get_decoder()
    if kind == "none" or next(decoder.parameters()).is_meta:
        return
    if kind == "nf4" and not find_spec("bitsandbytes"):
        raise UserError("base_quantization nf4 needs bitsandbytes: pip install 'depthup[quantized]'")
    for name in base_linears(llm):
        linear: Any = decoder.get_submodule(name)
        decoder.set_submodule(name, Int8Linear(linear) if kind == "int8" else _nf4(linear))


class Int8Linear(nn.Linear):
    """A frozen linear with a weight in int8 [out, in] and a scale for each output [out, 1]."""

    def __init__(self, linear: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, bias=False)
        weight = linear.weight.detach().float()
        # In the format of the frozen weights, so that moving the model to that format changes nothing.
        scale = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12).to(linear.weight.dtype)
        codes = (weight / scale.float()).round().clamp(-127, 127).to(torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("scale", scale, persistent=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product = _Product.apply(x, self.weight, self.scale)
        return product if self.bias is None else product + self.bias


class _Product(torch.autograd.Function):
    """x @ weight.T of a packed weight. Neither x nor the unpacked weight is kept for the gradient with regard to x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(codes, scale)
        return F.linear(x, (codes * scale).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        codes, scale = ctx.saved_tensors
        return gradient @ (codes * scale).to(gradient.dtype), None, None


def _nf4(linear: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    with torch.device("meta"):
        packed = Linear4bit(linear.in_features, linear.out_features, bias=False, quant_type="nf4")
    weight = Params4bit(linear.weight.detach(), quant_type="nf4", blocksize=NF4_BLOCK, module=packed)
    packed.weight = weight.to(linear.weight.device)  # packs it
    packed.bias = linear.bias
    # Else CPUs with AVX-512 BF16 repack the weight in eval mode, for a product that lets no gradient through.
    packed.support_avx512bf16_for_cpu = False
    return packed


def count(parameter: nn.Parameter) -> int:
    """Weights in a parameter, packed or not."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else parameter.numel()


def packed_bytes(weight: torch.Tensor, kind: Literal["int8", "nf4"]) -> int:
    """Bytes of a linear's `weight` [out, in] once it is packed."""
    size = weight.numel()
    if kind == "nf4":
        return size // 2 + math.ceil(size / NF4_BLOCK) + 4 * math.ceil(size / NF4_BLOCK / NF4_SCALES_BLOCK)
    return size + weight.shape[0] * weight.element_size()
