"""The depthwise convolution is `conv1d`, forward and backward, below and above its longest kernel."""

import pytest
import torch
import torch.nn.functional as F

from depthup.model.layers.depthwise_conv import depthwise_conv


@pytest.mark.parametrize("clips, length", [(1, 1), (3, 2), (2, 16), (5, 17), (3, 100), (2, 513), (1, 1100)])
@pytest.mark.parametrize("kernel_size", [1, 3, 15, 31])
def test_equals_conv1d(clips, length, kernel_size):
    torch.manual_seed(0)
    made = [torch.randn(clips, length + kernel_size - 1, 6), torch.randn(6, 1, kernel_size), torch.randn(6)]
    ours = [one.double().requires_grad_() for one in made]
    reference = [one.double().requires_grad_() for one in made]
    theirs = F.conv1d(reference[0].transpose(1, 2), *reference[1:], groups=6).transpose(1, 2)
    output = depthwise_conv(*ours)
    torch.testing.assert_close(output, theirs)
    direction = torch.randn(output.shape, dtype=torch.double)
    output.backward(direction)
    theirs.backward(direction)
    for mine, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_frozen_weights_get_no_gradient():
    x = torch.randn(2, 10, 4, requires_grad=True)
    weight, bias = torch.randn(4, 1, 3), torch.randn(4)
    depthwise_conv(x, weight, bias).sum().backward()
    assert x.grad is not None and weight.grad is None
