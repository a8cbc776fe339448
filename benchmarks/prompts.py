"""What a prompt is worth before the LLM has learnt anything: nats a token of transcripts, after a front end's drafts.

    python benchmarks/prompts.py recipes/english.yaml --front-end runs/english-front-end \\
        --test ../shared/speech/speechocean/validation.jsonl --clips 100

No WER: what has not learnt to end runs on (863 % with the recipe's prompt). Write {} for the recording; `\\n` is a new
line. Further words are changes to the recipe.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from depthup.config import AUDIO_MARKER
from depthup.evaluate.loss import validation_loss
from depthup.model import checkpoint
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.recipe import load_recipe

PROMPTS = (
    "Speech:{}\nTranscript:",
    "{}\n",
    "Correct the transcript. Transcript:{}\nCorrected:",
    "Repeat the text. Text:{}\nThe same text again:",
    "Repeat the text. Text: hello there\nThe same text again: hello there\nText: we like it\n"
    "The same text again: we like it\nText:{}\nThe same text again:",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--front-end", type=Path, required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--json", type=Path)
    options, overrides = parser.parse_known_args()
    recipe = load_recipe(options.recipe, [*overrides, "--init_part=front_end", f"--init_from={options.front_end}"])
    torch.manual_seed(recipe.seed)
    model = SpeechLM.from_recipe(recipe).eval()
    checkpoint.load_trained(model, options.front_end, part=checkpoint.FRONT_END)
    found = []
    for prompt in (text.replace("\\n", "\n") for text in options.prompts):
        processor = SpeechProcessor.build(model.config)
        processor.prompt = prompt.replace("{}", AUDIO_MARKER)
        loss = validation_loss(model, processor, options.test, recipe.data, limit=options.clips)
        found.append({"prompt": prompt, "loss": loss})
        print(f"{loss:.2f}  {prompt!r}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
