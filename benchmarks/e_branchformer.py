"""One E-Branchformer layer, forward and backward: ours against ESPnet's with the same weights, in turn, in one run.

    python benchmarks/e_branchformer.py --espnet /tmp/espnet     # unpacked as tests/reference/make_espnet.py says

The floor is the layer's matrix products alone, each as one call on tensors that are ready: what is left of a layer when
norms, activations, convolutions, softmax and everything around them cost nothing. Numbers are medians. Without ESPnet
ours is held against the floor alone. `--dtype bfloat16` computes all of them under autocast, weights in float32.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from report import now, save
from torch import nn

from depthup.api import default_device
from depthup.model.cpu_kernels import fast_kernels
from depthup.model.layers.e_branchformer import EBranchformerBlock
from depthup.model.layers.kind import View

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from espnet_like import espnet_like, load_espnet  # noqa: E402

WIDTH, HEADS, FEED_FORWARD, CGMLP, KERNEL = 576, 9, 1024, 1536, 31
SHAPES = "1x50,1x2000,2x1500,8x100,8x400,32x50,32x200"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--espnet", help="folder with ESPnet, typeguard and humanfriendly")
    parser.add_argument("--shapes", default=SHAPES, help="clips x frames")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)
    ours = espnet_like(WIDTH, HEADS, FEED_FORWARD, CGMLP, KERNEL).to(default_device())
    theirs = None
    if options.espnet:
        sys.path.insert(0, options.espnet)
        theirs = espnet_layer().to(default_device())
        load_espnet(ours, theirs.state_dict())
    print(f"{torch.get_num_threads()} threads, {default_device()}, {options.dtype}; ms forward + backward")
    print("| clips x frames | ESPnet | ours | speed: forward | backward | both | floor | share of the floor's speed |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    rows = []
    for shape in options.shapes.split(","):
        clips, frames = map(int, shape.split("x"))
        rows.append({"shape": shape, **measure(ours, theirs, clips, frames, options.repeat, dtype)})
        print(line(rows[-1]), flush=True)
    save(options.json, rows)


def line(row: dict) -> str:
    (forward, backward), floor = row["ours"], sum(row["floor"])
    both, cells = forward + backward, ["–", f"{forward:.1f} + {backward:.1f}", "–", "–", "–"]
    if "espnet" in row:
        theirs = row["espnet"]
        cells[0] = f"{theirs[0]:.1f} + {theirs[1]:.1f}"
        cells[2:] = [f"{theirs[0] / forward:.2f}", f"{theirs[1] / backward:.2f}", f"{sum(theirs) / both:.2f}"]
    return f"| {row['shape']} | {' | '.join(cells)} | {floor:.1f} | {floor / both:.0%} |"


def measure(
    ours: EBranchformerBlock, theirs: nn.Module | None, clips: int, frames: int, repeat: int, dtype: torch.dtype
) -> dict:
    """Median milliseconds (forward, backward) of the layers and of the floor."""
    device = default_device()
    precision = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    x = torch.randn(clips, frames, WIDTH, device=device)
    mask = torch.ones(clips, 1, frames, dtype=torch.bool, device=device)
    view = View(None, torch.arange(frames, device=device).expand(clips, -1), None, real=mask[:, 0])
    products = matrix_products(clips, frames, dtype)

    def as_we_run_it(given: torch.Tensor) -> torch.Tensor:
        with precision, fast_kernels(device):
            return ours.norm_final(ours.encode(given, view))

    def as_they_run_it(given: torch.Tensor) -> torch.Tensor:
        assert theirs is not None
        with precision:
            return theirs(given, mask)[0]

    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "ours": lambda: timed(ours, as_we_run_it, x),
        "floor": lambda: floor(products),
    }
    if theirs is not None:
        ways["espnet"] = lambda: timed(theirs, as_they_run_it, x)
        with torch.no_grad():
            torch.testing.assert_close(ours.norm_final(ours.encode(x, view)), theirs(x, mask)[0], rtol=1e-4, atol=1e-4)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            found[name].append(way())
    return {name: tuple(median(part) for part in zip(*times[1:], strict=True)) for name, times in found.items()}


def timed(layer: nn.Module, run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> tuple[float, float]:
    layer.zero_grad()  # as in a training step, else each time all gradients would be added up
    given = x.clone().requires_grad_()
    began = now()
    output = run(given)
    between = now()
    output.backward(x.to(output.dtype))
    return (between - began) * 1e3, (now() - between) * 1e3


def matrix_products(clips: int, frames: int, dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The factors of every product of a forward pass: nine linears, and the two of attention."""
    rows = clips * frames
    linears = [(WIDTH, FEED_FORWARD), (FEED_FORWARD, WIDTH)] + [(WIDTH, WIDTH)] * 4
    linears += [(WIDTH, CGMLP), (CGMLP // 2, WIDTH), (2 * WIDTH, WIDTH)]
    heads, size = clips * HEADS, WIDTH // HEADS
    shapes = [((rows, into), (into, out)) for into, out in linears]
    shapes += [((heads, frames, size), (heads, size, frames)), ((heads, frames, frames), (heads, frames, size))]
    device = default_device()
    return [tuple(torch.randn(shape, device=device, dtype=dtype) for shape in pair) for pair in shapes]


@torch.no_grad()
def floor(products: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return F.linear(left, right.mT) if left.dim() == 2 else left @ right

    with fast_kernels(default_device()):
        began = now()
        outputs = [product(left, right) for left, right in products]
        between = now()
        for output, (left, right) in zip(outputs, products, strict=True):
            product(output, right.mT)
            left.mT @ output
        return (between - began) * 1e3, (now() - between) * 1e3


def espnet_layer() -> nn.Module:
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of optional packages
        layer = importlib.import_module("espnet2.asr.encoder.e_branchformer_encoder")
    cgmlp = importlib.import_module("espnet2.asr.layers.cgmlp")
    parts = importlib.import_module("espnet.nets.pytorch_backend.transformer.positionwise_feed_forward")
    attention = importlib.import_module("espnet.nets.pytorch_backend.transformer.attention")
    activation = importlib.import_module("espnet.nets.pytorch_backend.nets_utils").get_activation("swish")
    return layer.EBranchformerEncoderLayer(
        size=WIDTH,
        attn=attention.MultiHeadedAttention(HEADS, WIDTH, 0.0),
        cgmlp=cgmlp.ConvolutionalGatingMLP(WIDTH, CGMLP, KERNEL, 0.0, False, "identity"),
        feed_forward=parts.PositionwiseFeedForward(WIDTH, FEED_FORWARD, 0.0, activation),
        feed_forward_macaron=None,
        dropout_rate=0.0,
        merge_conv_kernel=KERNEL,
    )


if __name__ == "__main__":
    main()
