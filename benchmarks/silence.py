"""What Whisper's own decoder writes, with the silence behind a clip in few frames, in full, and without it.

    python benchmarks/silence.py recipes/english.yaml --encoder.name WHISPER --dtype bfloat16 \\
        --test ../shared/speech/speechocean/validation.jsonl --clips 100
    python benchmarks/silence.py ... --run runs/english-front-end    # what a run has learnt instead

Prints WER with its interval, frames of a clip and seconds. At most 12 tokens a second are written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

from depthup.data import load_cuts, read_audio
from depthup.data.cuts import fields_of
from depthup.evaluate import score
from depthup.model.encoders import SpeechEncoder, encoder_kind
from depthup.model.speech_lm import SpeechLM
from depthup.recipe import load_recipe

SILENCE = {"few frames": None, "in full": True, "none": False}
TOKENS_PER_SECOND, BATCH = 12.0, 12


def measure(encoder: SpeechEncoder, cuts: list[Any], dtype: str, by: list[str]) -> dict[str, Any]:
    kind, extractor = encoder.kind, encoder.kind.feature_extractor()
    texts, frames_in_all, began = [], 0, time.perf_counter()
    for first in range(0, len(cuts), BATCH):
        features = [
            kind.features(extractor, read_audio(cut, 16000), None, "cpu") for cut in cuts[first : first + BATCH]
        ]
        lengths = torch.tensor([len(clip) for clip in features])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            frames, counted = encoder(kind.pad(features), lengths, taught=False)
            texts += [written.text for written in encoder.write(frames, counted, TOKENS_PER_SECOND) or []]
        frames_in_all += frames.shape[1] * len(features)
    groups = {field: [fields_of(cut).get(field) for cut in cuts] for field in ("speaker", *by)}
    said = [str(cut.supervisions[0].text) for cut in cuts]
    report = score(said, texts, groups, language=kind.config.language or "en")
    found = {"wer": report.wer, "interval": report.interval, "frames": frames_in_all / len(cuts)}
    for field in report.groups.keys() & by:
        found[field] = {name: [told.wer, *told.interval] for name, told in report.groups[field].values.items()}
    return found | {"clips": len(cuts), "seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--run", type=Path, help="a checkpoint whose encoder is measured, as it was trained")
    parser.add_argument("--test", action="append", required=True)
    parser.add_argument("--by", action="append", default=[], help="a field of the manifest, such as age")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options, overrides = parser.parse_known_args()
    recipe = load_recipe(options.recipe, overrides)
    if options.run:
        encoders = {str(options.run): SpeechLM.from_pretrained(options.run).encoder.eval()}
    else:
        configs = {name: dataclasses.replace(recipe.encoder, pad_to_30s=value) for name, value in SILENCE.items()}
        encoders = {name: encoder_kind(config).build(load_weights=True).eval() for name, config in configs.items()}
    found = []
    for test in options.test:
        cuts = list(load_cuts(test, recipe.data))
        cuts = sorted(cuts[:: max(1, len(cuts) // options.clips)][: options.clips], key=lambda cut: cut.duration)
        for name, encoder in encoders.items():
            found.append({"test": test, "silence": name} | measure(encoder, cuts, recipe.dtype, options.by))
            print(json.dumps(found[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
