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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [2, 16, 18])
def test_few_channels_are_computed_in_float32_under_autocast_too(channels, dtype, monkeypatch):
    """In 16 bits oneDNN would compute for ever; so what it is asked for is looked at, and nothing can hang."""
    asked, conv2d = [], F.conv2d

    def looked_at(x, weight, bias=None, groups=1):
        asked.append(torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype)
        with torch.autocast("cpu", enabled=False):
            exact = conv2d(x.float(), weight.float(), None if bias is None else bias.float(), groups=groups)
        return exact.to(asked[-1])

    monkeypatch.setattr(F, "conv2d", looked_at)
    x = torch.randn(2, 114, channels, dtype=dtype, requires_grad=True)
    weight = torch.randn(channels, 1, 15, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = depthwise_conv(x, weight, torch.zeros(channels))
    output.sum().backward()
    few = channels <= 16
    assert asked[0] == (torch.float32 if few else torch.bfloat16) and len(asked) > 2
    assert not few or set(asked) == {torch.float32}
    assert x.grad.dtype == dtype
