"""Does a GPU give what the CPU gives? Every method on a small model with random weights, the same inputs on both.

    python benchmarks/parity.py

Errors are |ours - CPU's| / |CPU's| over all logits and over the worst of all trained gradients, the CPU in float32; in
bfloat16 they are its own rounding. Text alone must be the base's bit for bit on the GPU too, and a step that is not
finite must change nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from report import full_batch, save
from transformers import LlamaConfig

from depthup.api import default_device
from depthup.config import Recipe
from depthup.model.speech_lm import SpeechLM
from depthup.recipe import load_recipe
from depthup.sweep import METHODS, REPLAY
from depthup.train.finite import FiniteSteps
from depthup.transcribe.decoding import decode

TOLERANCE = 1e-4
"""Of float32: far above its rounding, far below that of any other format."""
SHAPE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 1000}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
CPU = torch.device("cpu")
Batch = dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(name for name in METHODS if not name.endswith(REPLAY)))
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print(
        "| method | logits | gradients | logits, bfloat16 | same answers | text is the base's | NaN changes nothing |"
    )
    print("|---|---:|---:|---:|---:|---|---|", flush=True)
    for method in options.methods.split(","):
        rows.append({"method": method, **compare(method, options.clips, default_device())})
        print(line(rows[-1]), flush=True)
        save(options.json, rows)


def line(row: dict[str, Any]) -> str:
    errors = " | ".join(f"{row[name]:.1e}" for name in ("logits", "gradients", "bfloat16"))
    text = {True: "yes", False: "NO", None: "changes by design"}[row["text"]]
    return f"| {row['method']} | {errors} | {row['answers']:.0%} | {text} | {'yes' if row['nan'] else 'NO'} |"


def compare(method: str, clips: int, device: torch.device) -> dict[str, Any]:
    """Errors of one method on `device`, as `line` shows them; `fine` where all of them are within rounding."""
    model, recipe = small_model(method)
    batch = {name: value.to(CPU) for name, value in full_batch(model, recipe, 3.0 * clips, 3.0, padding=0.4).items()}
    there = copy.deepcopy(model).to(device)
    logits, gradients = run(model, batch, torch.float32)
    theirs, other = run(there, batch, torch.float32)
    halved, _ = run(there, batch, torch.bfloat16)
    mine, found = (answers(one, batch) for one in (model, there))
    told = {
        "logits": error(theirs, logits),
        "gradients": max(error(found, gradients[name]) for name, found in other.items()),
        "bfloat16": error(halved, logits),
        "answers": sum(a == b for a, b in zip(mine, found, strict=True)) / clips,
        "text": is_base(there, batch["labels"].clamp(min=0)) if model.keeps_text else None,
        "nan": nan_changes_nothing(there),
    }
    fine = max(told["logits"], told["gradients"]) < TOLERANCE and told["text"] is not False and told["nan"]
    return {**told, "fine": bool(fine)}


def small_model(method: str) -> tuple[SpeechLM, Recipe]:
    """A model on the CPU whose trained weights are away from where they start, and its recipe."""
    with tempfile.TemporaryDirectory() as folder:
        config = LlamaConfig(**SHAPE, **HEADS, pad_token_id=0, eos_token_id=2)
        (Path(folder) / "config.json").write_text(json.dumps(config.to_dict()))
        (Path(folder) / "recipe.yaml").write_text("base: small\nconfigs: {small: config.json}\n")
        recipe = load_recipe(str(Path(folder) / "recipe.yaml"), [*METHODS[method], "--upscale.num_layers=2"])
        model = SpeechLM.from_recipe(recipe, load_weights=False).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return model, recipe


def run(model: SpeechLM, batch: Batch, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits where there are labels, and the loss's gradients, on the CPU in float32."""
    inputs = moved(model, batch)
    with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
        loss = model(**inputs).loss
        loss.backward()
        with torch.no_grad():
            logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).logits
    gradients = {name: p.grad.float().to(CPU) for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logits.float().to(CPU)[batch["labels"] != -100], gradients


def moved(model: SpeechLM, batch: Batch) -> Batch:
    return {name: value.to(model.device) for name, value in batch.items()}


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of a gradient that is nothing but rounding on both sides, against the size of one that is not."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-6))


def answers(model: SpeechLM, batch: Batch, most: int = 20) -> list[list[int]]:
    """Greedy answers to the prompts, whose answers are cut off."""
    count = int((batch["labels"][0] != -100).sum())
    prompts = {name: value for name, value in moved(model, batch).items() if name != "labels"}
    for name in ("input_ids", "attention_mask"):
        prompts[name] = prompts[name][:, :-count]
    return decode(model, prompts, [most] * len(batch["labels"]), None, ()).tokens


@torch.no_grad()
def is_base(model: SpeechLM, ids: torch.Tensor) -> bool:
    """Whether the logits of text alone are those without inserted layers and adapters, bit for bit."""
    found = model(input_ids=ids.to(model.device)).logits
    with model.layers_dropped():
        return torch.equal(found, model(input_ids=ids.to(model.device)).logits)


def nan_changes_nothing(model: SpeechLM) -> bool:
    """Whether a step of fused AdamW is left out where its gradients are not finite."""
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    optimizer = torch.optim.AdamW(trained, lr=1.0, fused=True)
    steps = FiniteSteps("skip", "", model.device)
    steps.watch(optimizer)
    for parameter in trained:
        parameter.grad = torch.full_like(parameter, torch.nan)
    steps.judge(torch.nn.utils.get_total_norm(p.grad for p in trained))
    optimizer.step()
    return all(torch.equal(p, old) for p, old in zip(trained, before, strict=True))


if __name__ == "__main__":
    main()
