"""Makes espnet_e_branchformer.safetensors: what ESPnet's own E-Branchformer layer computes, for a parity test.

ESPnet need not be installed, only unpacked beside two small packages:

    python -m pip download --no-deps --dest /tmp/espnet espnet==202511
    python -m pip install --no-deps --target /tmp/espnet typeguard humanfriendly
    unzip -q /tmp/espnet/espnet-202511-py3-none-any.whl -d /tmp/espnet
    PYTHONPATH=/tmp/espnet python tests/reference/make_espnet.py

The file holds every parameter under ESPnet's name after `layer.`; `x` [1, 20, 16] and `x_short` [1, 13, 16] with the
outputs `y` and `y_short`, each clip alone; and `y_padded` [2, 20, 16], both in one batch, `x_short` padded with zeros
and masked in ESPnet's way: attention skips padded frames, the convolutions read what padding has become by then.
"""

from pathlib import Path

import torch
from espnet.nets.pytorch_backend.nets_utils import get_activation, make_pad_mask
from espnet.nets.pytorch_backend.transformer.attention import MultiHeadedAttention
from espnet.nets.pytorch_backend.transformer.positionwise_feed_forward import PositionwiseFeedForward
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoderLayer
from espnet2.asr.layers.cgmlp import ConvolutionalGatingMLP
from safetensors.torch import save_file

SIZE, FRAMES, SHORT = 16, 20, 13


def randomised_layer() -> torch.nn.Module:
    layer = EBranchformerEncoderLayer(
        size=SIZE,
        attn=MultiHeadedAttention(n_head=2, n_feat=SIZE, dropout_rate=0.0),
        cgmlp=ConvolutionalGatingMLP(
            SIZE,
            linear_units=48,
            kernel_size=7,
            dropout_rate=0.0,
            use_linear_after_conv=False,
            gate_activation="identity",
        ),
        feed_forward=PositionwiseFeedForward(SIZE, 32, 0.0, get_activation("swish")),
        feed_forward_macaron=None,
        dropout_rate=0.0,
        merge_conv_kernel=7,
    )
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(std=fan_in**-0.5)
            else:
                # Norms scatter around one, biases around zero, so that no parameter can be left out unnoticed.
                parameter.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.3)
    return layer.eval()


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    layer = randomised_layer()
    x, x_short = torch.randn(1, FRAMES, SIZE), torch.randn(1, SHORT, SIZE)
    batch = torch.cat([x, torch.nn.functional.pad(x_short, (0, 0, 0, FRAMES - SHORT))])
    mask = ~make_pad_mask([FRAMES, SHORT])[:, None, :]
    tensors = {f"layer.{name}": parameter.detach() for name, parameter in layer.named_parameters()}
    tensors |= {"x": x, "x_short": x_short}
    tensors["y"] = layer(x, torch.ones(1, 1, FRAMES, dtype=torch.bool))[0]
    tensors["y_short"] = layer(x_short, torch.ones(1, 1, SHORT, dtype=torch.bool))[0]
    tensors["y_padded"] = layer(batch, mask)[0]
    save_file(tensors, Path(__file__).with_name("espnet_e_branchformer.safetensors"))


if __name__ == "__main__":
    main()
