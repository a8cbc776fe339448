"""Makes docs/bases.md: every family of causal LMs and every speech encoder, tried on tiny random models.

    python benchmarks/bases.py                  # all, and write docs/bases.md
    python benchmarks/bases.py "OLMo 2" Jamba   # these families, and print their rows

tests/test_bases.py and tests/test_encoders.py run the same checks over a part of them.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from transformers.utils import logging

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from base_checks import faults  # noqa: E402
from tiny_encoders import ENCODERS, save_encoder  # noqa: E402
from tiny_families import FAMILIES  # noqa: E402

from depthup.config import EncoderConfig  # noqa: E402
from depthup.errors import UserError  # noqa: E402
from depthup.model.encoders import encoder_kind  # noqa: E402

HEAD = """# Bases and encoders

Made by `python benchmarks/bases.py` with transformers {version}, on tiny random models with the default layers and
scope (E-Branchformer, `speech`). A family works when text alone gives its logits bit for bit, generated text too; a
clip is heard alike alone and in a batch; step by step is as at once; decoding with drafts gives what `generate` gives;
eager and SDPA attention agree where the family has both; and what should learn gets gradients. What does not work is
refused in one line before anything is saved.

## Text LLMs: {works} of {number} families

| family | |
|---|---|
"""
ENCODER_HEAD = """
## Speech encoders

By Hugging Face id or directory as `encoder.name`; of an audio LLM its encoder alone is read. `clip by clip`: the model
lets padding into real frames, so the clips of a batch go through it one at a time and a transcript never depends on
its neighbours. `found leak` is the largest difference between a frame alone and in a batch.

| encoder | `model_type` | frames a second | longest clip | | found leak |
|---|---|---:|---:|---|---:|
| `fbank`, trained from scratch | | 25 | | | |
"""


def family_row(family: str) -> str:
    try:
        found = faults(family)
    except UserError as error:
        return f"| {family} | refused: {error} |"
    return f"| {family} | {'works' if found is None else f'**fails**: {found}'} |"


def encoder_row(name: str) -> str:
    with tempfile.TemporaryDirectory() as directory:
        kind = encoder_kind(EncoderConfig(name=str(save_encoder(Path(directory), name))))
        encoder, extractor = kind.build(load_weights=True).eval(), kind.feature_extractor()

    def heard(*lengths: int) -> torch.Tensor:
        clips = [np.random.default_rng(n).standard_normal(n).astype(np.float32) * 0.1 for n in lengths]
        features = [kind.features(extractor, clip, None, "cpu") for clip in clips]
        with torch.no_grad():
            return encoder(kind.pad(features), torch.tensor([len(f) for f in features]))[0]

    leak = 0.0
    for short in (4001, 6900, 7300):
        alone = heard(short)[0]
        leak = max(leak, float((heard(short, 16500)[0, : len(alone)] - alone).abs().max()))
    longest = f"{kind.longest / 16000:g} s" if kind.longest else ""
    alone = "clip by clip" if kind.leaks else ""
    model_type = kind.hf_config.model_type if kind.hf_config else ""
    return f"| {name} | `{model_type}` | {kind.frame_rate:.4g} | {longest} | {alone} | {leak:.0e} |"


def main() -> None:
    import transformers

    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    if sys.argv[1:]:
        print("\n".join(family_row(family) for family in sys.argv[1:]))
        return
    rows = [family_row(family) for family in track(list(FAMILIES), "families")]
    encoders = [encoder_row(name) for name in track(list(ENCODERS), "encoders")]
    works = sum(row.endswith("| works |") for row in rows)
    head = HEAD.format(version=transformers.__version__, works=works, number=len(rows))
    text = head + "\n".join(rows) + "\n" + ENCODER_HEAD + "\n".join(encoders) + "\n"
    (ROOT / "docs" / "bases.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
