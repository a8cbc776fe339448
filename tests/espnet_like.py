"""Our E-Branchformer block with the parts that ESPnet's layer has where ours has the base's own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig

from depthup.model.layers.e_branchformer import EBranchformer, EBranchformerBlock
from depthup.model.layers.kind import Place

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
}


class Attention(nn.Module):
    """Both ways, without positions, with biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **_: Any
    ) -> tuple[torch.Tensor]:
        parts = [
            linear(hidden_states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        ]
        attended = F.scaled_dot_product_attention(*parts, attn_mask=attention_mask)
        return (self.o_proj(attended.transpose(1, 2).flatten(2)),)


class FeedForward(nn.Module):
    """With biases and without a gate."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.up_proj(x)))


def espnet_like(width: int, heads: int, feed_forward: int, cgmlp: int, kernel_size: int) -> EBranchformerBlock:
    """A block whose `encode` and `norm_final` compute what ESPnet's layer without macaron feed-forward does."""
    config = EBranchformer(width=width, cgmlp_width=cgmlp, kernel_size=kernel_size)
    base = LlamaConfig(hidden_size=2 * width, intermediate_size=feed_forward, num_attention_heads=heads)
    block = EBranchformerBlock(config, Place(nn.Module(), base, layer_idx=0, causal=False))
    block.attn, block.feed_forward = Attention(width, heads), FeedForward(width, feed_forward)
    for name in ("norm_mha", "norm_mlp", "norm_ff", "norm_final"):
        setattr(block, name, nn.LayerNorm(width, eps=1e-12))
    return block.eval()


def load_espnet(block: EBranchformerBlock, theirs: dict[str, torch.Tensor]) -> None:
    """Fill in ESPnet's weights; those before and after the layer, which ESPnet's lacks, stay."""
    state = {}
    for name, value in block.state_dict().items():
        module, kind = name.rsplit(".", 1)
        around = name.startswith(("norm_in", "proj_in", "proj_out"))
        state[name] = value if around else theirs[f"{NAMES.get(module, module)}.{kind}"]
    block.load_state_dict(state)
