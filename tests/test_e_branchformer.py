"""One block equals ESPnet's, and its two ways of convolving keep padding and the future out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig
from transformers.masking_utils import create_bidirectional_mask

from depthup.config import UpscaleConfig
from depthup.model.layers.e_branchformer import EBranchformerBlock
from depthup.model.layers.inserted import View

REFERENCE = Path(__file__).parent / "reference" / "espnet_e_branchformer.safetensors"
NAMES = {  # ours -> ESPnet's
    "attn.q_proj": "attn.linear_q",
    "attn.k_proj": "attn.linear_k",
    "attn.v_proj": "attn.linear_v",
    "attn.o_proj": "attn.linear_out",
    "cgmlp.channel_proj1": "cgmlp.channel_proj1.0",
    "cgmlp.norm": "cgmlp.csgu.norm",
    "cgmlp.conv.conv": "cgmlp.csgu.conv",
    "depthwise_conv_fusion.conv": "depthwise_conv_fusion",
    "feed_forward.up_proj": "feed_forward.w_1",
    "feed_forward.down_proj": "feed_forward.w_2",
    "feed_forward_macaron.up_proj": "feed_forward_macaron.w_1",
    "feed_forward_macaron.down_proj": "feed_forward_macaron.w_2",
}


@pytest.fixture
def reference():
    return load_file(REFERENCE)


@pytest.fixture
def block(reference):
    config = LlamaConfig(hidden_size=16, intermediate_size=32, num_attention_heads=2, attn_implementation="sdpa")
    upscale = UpscaleConfig(style="espnet", feed_forward_width=32, cgmlp_width=48, kernel_size=7, num_heads=2)
    block = EBranchformerBlock(upscale, config, layer_idx=0).eval()
    block.config = config
    state = {}
    for name, target in block.state_dict().items():
        if name.startswith(("norm_in", "proj_in", "proj_out")):
            state[name] = target
            continue
        module, kind = name.rsplit(".", 1)
        state[name] = reference[f"layer.{NAMES.get(module, module)}.{kind}"]
    block.load_state_dict(state)
    return block


def view(block, real: torch.Tensor) -> View:
    embeds = torch.zeros(*real.shape, 16)
    mask = create_bidirectional_mask(config=block.config, inputs_embeds=embeds, attention_mask=real.long())
    return View(real, mask, torch.arange(real.shape[1]).expand(real.shape), None, causal=False)


def test_equals_espnet(block, reference):
    with torch.no_grad():
        ours = block.encode(reference["x"], view(block, torch.ones(1, 20, dtype=torch.bool)))
    torch.testing.assert_close(ours, reference["y"], rtol=1e-5, atol=1e-5)


def test_equals_espnet_on_each_clip_of_a_padded_batch(block, reference):
    padded = torch.full((2, 20, 16), 7.0)  # what stands in the padding must not matter
    padded[0], padded[1, :13] = reference["x"][0], reference["x_short"][0]
    real = torch.arange(20) < torch.tensor([[20], [13]])
    with torch.no_grad():
        ours = block.encode(padded, view(block, real))
    torch.testing.assert_close(ours[:1], reference["y"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1:, :13], reference["y_short"], rtol=1e-5, atol=1e-5)


def test_every_weight_of_espnet_is_used(block, reference):
    ours = sum(p.numel() for n, p in block.named_parameters() if not n.startswith(("norm_in", "proj_")))
    assert ours == sum(v.numel() for k, v in reference.items() if k.startswith("layer."))
