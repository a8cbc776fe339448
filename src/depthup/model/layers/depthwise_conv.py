"""Depthwise convolution over time in the layout that the rest of a block has, with a backward pass made for it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

# Frames of gradients that are one kernel when the kernel's gradient is computed; longer ones are no faster.
LONGEST_KERNEL = 512
# Clips of up to so many frames go through it together, as channels of one: half the time for 48 frames, all for 100.
SHORT = 64
# Up to so many channels oneDNN 3.12, of PyTorch 2.13, runs for ever in 16 bits on CPUs with AMX.
FEW = 16


def depthwise_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """[N, L + K - 1, C] with `weight` [C, 1, K] and `bias` [C] -> [N, L, C], as `conv1d` with C groups."""
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if x.device.type != "cpu":  # measured on CPUs only
        return F.conv1d(x.transpose(1, 2), weight, bias, groups=len(weight)).transpose(1, 2)
    return _DepthwiseConv.apply(x, weight, bias)


class _DepthwiseConv(torch.autograd.Function):
    """PyTorch's own backward pass costs ten times the forward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        past = weight.shape[-1] - 1
        return (
            _convolve(F.pad(grad, (0, 0, past, past)), weight.flip(-1)) if of_x else None,
            _kernel_gradient(x, grad, past + 1) if of_weight else None,
            grad.sum((0, 1)) if of_bias else None,
        )


def _convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """As a picture of height one with channels last, which is how the states lie in memory: nothing is transposed."""
    if len(weight) <= FEW and (x.element_size() < 4 or torch.is_autocast_enabled("cpu")):
        with torch.autocast("cpu", enabled=False):
            return _convolve(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    picture = F.conv2d(x[:, None].permute(0, 3, 1, 2), weight[:, :, None], bias, groups=len(weight))
    return picture.permute(0, 2, 3, 1)[:, 0]


def _kernel_gradient(x: torch.Tensor, grad: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """[C, 1, K]: sum over n and l of x[n, l + k, c] * grad[n, l, c].

    That is a convolution too: of a clip's inputs with its gradients as the kernel, which has a fast kernel where the
    kernel's gradient has none.
    """
    clips, length, channels = grad.shape
    if length <= SHORT:
        inputs, kernels = (one.transpose(0, 1).reshape(one.shape[1], clips * channels) for one in (x, grad))
        found = _convolve(inputs[None], kernels.t()[:, None])[0]
        return found.view(kernel_size, clips, channels).sum(1).t()[:, None]
    found = x.new_zeros(channels, 1, kernel_size)
    for clip in range(clips):
        for begin in range(0, length, LONGEST_KERNEL):
            end = min(begin + LONGEST_KERNEL, length)
            inputs = x[clip : clip + 1, begin : end + kernel_size - 1]
            found += _convolve(inputs, grad[clip, begin:end].t()[:, None])[0].t()[:, None]
    return found
