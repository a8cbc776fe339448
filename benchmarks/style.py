"""What Whisper's decoder pays for transcripts before it is trained: in lower case, and in its own style.

    python benchmarks/style.py recipes/english.yaml --encoder.name WHISPER --dtype bfloat16 --test .../train.jsonl

Nats a word: by the tokenizer as it came, by the mended one, and in the style in which the decoder is taught; then the
first transcripts in that style. The first two are alike where nothing was to mend.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoTokenizer

from depthup.data import load_cuts, read_audio
from depthup.data.transcripts import spoken
from depthup.model.encoders import encoder_kind
from depthup.model.encoders.writer import Writer
from depthup.recipe import load_recipe

BATCH, SHOWN = 12, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--test", action="append", required=True)
    parser.add_argument("--clips", type=int, default=48)
    options, overrides = parser.parse_known_args()
    recipe = load_recipe(options.recipe, overrides)
    kind = encoder_kind(recipe.encoder)
    encoder, extractor, mended = kind.build(load_weights=True).eval(), kind.feature_extractor(), kind.writer
    assert mended is not None
    as_it_came = Writer(recipe.encoder, kind.hf_config, kind.counts)
    as_it_came.__dict__["tokenizer"] = AutoTokenizer.from_pretrained(recipe.encoder.name)
    for test in options.test:
        cuts = list(load_cuts(test, recipe.data))
        cuts = cuts[:: max(1, len(cuts) // options.clips)][: options.clips]
        words, sums, shown = 0, torch.zeros(3), []
        for first in range(0, len(cuts), BATCH):
            batch = cuts[first : first + BATCH]
            features = [kind.features(extractor, read_audio(cut, 16000), None, "cpu") for cut in batch]
            texts = [spoken(str(cut.supervisions[0].text))[0] for cut in batch]
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
                heard = encoder(kind.pad(features), torch.tensor([len(clip) for clip in features]), taught=False)
                own = [text or "" for text in mended.styled(encoder.model, *heard, texts)]
                ways = (as_it_came, texts), (mended, texts), (mended, own)
                sums -= torch.stack([writer.likelihoods(encoder.model, *heard, some).sum() for writer, some in ways])
            words += sum(len(text.split()) for text in texts)
            shown += own
        found = " ".join(f"{loss / words:.2f}" for loss in sums)
        print(f"{test}, {len(cuts)} clips: lower case, mended, own style: {found} nats a word")
        print("\n".join(f"   {text}" for text in shown[:SHOWN]))


if __name__ == "__main__":
    main()
