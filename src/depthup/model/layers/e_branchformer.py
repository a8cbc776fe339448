"""E-Branchformer as the paper inserts it (arXiv 2604.00489, 3.3), after Kim et al., SLT 2022."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Optional

import torch
import torch.nn.functional as F
from torch import nn

from depthup.checks import at_least, require
from depthup.model.layers import base_parts
from depthup.model.layers.depthwise_conv import depthwise_conv
from depthup.model.layers.kind import LayerKind, Place, View, attend_freely, copied, last_linear, zero_

NAME = "upscale.e_branchformer"


@dataclass
class EBranchformer(LayerKind):
    """Attention beside a convolutional branch that only speech takes, merged, then a feed-forward."""

    init: Literal["copy", "random", "random_merge"] = "copy"
    """Attention, norms and feed-forward from the base layer below, or at `random`. `random_merge` copies them but draws
    the merge projection: the paper's ablation, with which speech is changed from the start."""
    width: Optional[int] = None
    """Width of the layer; default the base's. Another width adds projections in and out, and copies nothing."""
    feed_forward_width: Optional[int] = None
    """Inner width of the feed-forward; default the base's, scaled with `width`. Another one copies no feed-forward."""
    cgmlp_width: Optional[int] = None
    """Inner width of the convolutional gating MLP, half of which gates the other; default `width`."""
    kernel_size: int = 15
    """Frames the depthwise convolutions see, an odd number."""
    dropout: float = 0.0
    """Dropout of each branch, of their merging and of the feed-forward."""

    def __post_init__(self) -> None:
        require(self.kernel_size % 2 == 1, f"{NAME}.kernel_size must be odd, not {self.kernel_size}")
        require(0 <= self.dropout < 1, f"{NAME}.dropout must be in [0, 1), not {self.dropout}")
        at_least(self, NAME, width=2, feed_forward_width=2, cgmlp_width=2)
        inner = self.cgmlp_width
        require(inner is None or inner % 2 == 0, f"{NAME}.cgmlp_width must be even, not {inner}")

    @property
    def starts_as_identity(self) -> bool:
        return self.init != "random_merge" or self.width is not None

    def build(self, place: Place) -> nn.Module:
        return EBranchformerBlock(self, place)


class EBranchformerBlock(nn.Module):
    """Self-attention and cgMLP in parallel, merged by a depthwise convolution and a projection; then a feed-forward.

    Text takes the attention's output alone. In the base's own width the block starts from the base layer below, with
    W_merge = [I; 0] and zero at the end of attention, merge convolution and feed-forward, and is then the identity.
    In another width it stands, with a final norm, between a projection in and a zeroed projection out.
    """

    def __init__(self, config: EBranchformer, place: Place) -> None:
        super().__init__()
        hidden, inner = place.llm_config.hidden_size, base_parts.inner_width(place.llm_config)
        width = config.width or hidden
        feed_forward_width = config.feed_forward_width or round(inner * width / hidden)
        self.projected = width != hidden
        random = config.init == "random"

        def norm(of_base: Optional[nn.Module] = None) -> nn.Module:
            return nn.RMSNorm(width, eps=1e-6) if self.projected or of_base is None else copied(of_base)

        self.norm_mha = norm(base_parts.norm_before_attention(place.below))
        if self.projected:
            from depthup.model.layers.attention import SelfAttention  # needs more than torch

            self.attn: Any = SelfAttention(width, place.llm_config)
        else:
            self.attn = copied(base_parts.nearest_attention(place), random)
        attend_freely(self.attn, place)
        self.norm_mlp = norm(base_parts.norm_before_attention(place.below))
        self.cgmlp = ConvolutionalGatingMLP(width, config.cgmlp_width or width, config.kernel_size, config.dropout)
        self.depthwise_conv_fusion = DepthwiseConv(2 * width, config.kernel_size)
        self.merge_proj = nn.Linear(2 * width, width)
        self.norm_ff = norm(base_parts.norm_before_feed_forward(place.below))
        dense = base_parts.dense_feed_forward_of(place.below, width)
        if dense is None or feed_forward_width != inner:
            self.feed_forward: nn.Module = FeedForward(width, feed_forward_width, config.dropout)
        else:
            self.feed_forward = copied(dense, random)
        self.dropout = nn.Dropout(config.dropout)
        zero_(self.depthwise_conv_fusion.conv)
        if config.init != "random_merge":
            zero_(self.merge_proj)
            with torch.no_grad():  # the attention passes, the cgMLP does not
                self.merge_proj.weight[:, :width].fill_diagonal_(1.0)
        if self.projected:
            self.norm_final = norm()
            self.norm_in = nn.RMSNorm(hidden, eps=1e-6)
            self.proj_in, self.proj_out = nn.Linear(hidden, width), nn.Linear(width, hidden)
            zero_(self.proj_out)
        else:
            zero_(last_linear(self.attn))
            zero_(last_linear(self.feed_forward))

    def forward(self, states: torch.Tensor, view: View) -> torch.Tensor:
        if self.projected:
            return states + self.proj_out(self.norm_final(self.encode(self.proj_in(self.norm_in(states)), view)))
        return self.encode(states, view)

    def encode(self, x: torch.Tensor, view: View) -> torch.Tensor:
        """[N, L, width] -> [N, L, width]."""
        attended = base_parts.attend(self.attn, self.norm_mha(x), view)
        x = x + view.at_speech(self._merge, self.dropout(attended), x)
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))

    def _merge(self, attended: torch.Tensor, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Speech frames: attention's output and the layer's input [N, L, width] -> what the layer adds."""
        both = torch.cat([attended, self.dropout(self.cgmlp(self.norm_mlp(x), real))], -1)
        return self.dropout(self.merge_proj(both + self.depthwise_conv_fusion(both, real)))


class FeedForward(nn.Module):
    """Position-wise feed-forward gated with SiLU (SwiGLU)."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.dropout(F.silu(self.gate_proj(x)) * self.up_proj(x)))


class ConvolutionalGatingMLP(nn.Module):
    """cgMLP (Sakuma et al. 2021): a wide projection, half of which gates the other after a depthwise convolution."""

    def __init__(self, width: int, inner: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.channel_proj1 = nn.Linear(width, inner)
        self.norm = nn.LayerNorm(inner // 2, eps=1e-12)  # ESPnet's
        self.conv = DepthwiseConv(inner // 2, kernel_size)
        # The gate starts near one, as in ESPnet, so that the branch passes its input on.
        nn.init.normal_(self.conv.conv.weight, std=1e-6)
        nn.init.ones_(self.conv.conv.bias)
        self.dropout = nn.Dropout(dropout)
        self.channel_proj2 = nn.Linear(inner // 2, width)

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        content, gate = F.gelu(self.channel_proj1(x)).chunk(2, -1)
        return self.channel_proj2(self.dropout(content * self.conv(self.norm(gate), real)))


class DepthwiseConv(nn.Module):
    """Depthwise convolution over the real frames of spans of speech, which look both ways."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel_size, groups=channels)

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """[N, L, C] and bool [N, L] -> [N, L, C]."""
        past = self.conv.kernel_size[0] // 2
        x = F.pad(x * real[..., None], (0, 0, past, past))  # padding must not leak into its neighbours
        return depthwise_conv(x, self.conv.weight, self.conv.bias)
