"""What the LLM does to the drafts that it reads: errors of both, and the clips that it made better and worse.

    python benchmarks/drafts.py RUN --test ../shared/speech/speechocean/test.jsonl --clips 160

Both are scored by the rules of the language that the model writes. Nothing guards the LLM's text here, as
`depthup transcribe` does.
"""

from __future__ import annotations

import argparse
from itertools import islice

import torch

from depthup.api import load
from depthup.config import DataConfig
from depthup.data import load_cuts, read_audio
from depthup.evaluate import score
from depthup.evaluate.language import written_language

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--test", action="append", required=True)
    parser.add_argument("--clips", type=int, default=100)
    options = parser.parse_args()
    model, processor = load(options.run)
    for test in options.test:
        cuts = list(islice(load_cuts(test, DataConfig()), options.clips))
        drafts, texts = [], []
        for first in range(0, len(cuts), BATCH):
            audio = [read_audio(cut, processor.sampling_rate) for cut in cuts[first : first + BATCH]]
            inputs = processor.prompt_batch(audio)
            longest = max(model.config.answer_tokens(processor.seconds(clip)) for clip in audio)
            with torch.inference_mode():
                drafts += model.hear(**inputs).speech.texts
                ids = model.generate(**inputs, max_new_tokens=longest, do_sample=False)
            texts += processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        said = [str(cut.supervisions[0].text) for cut in cuts]
        of_draft, of_text = (score(said, heard, language=written_language(model)) for heard in (drafts, texts))
        before, after = ([edits.errors for edits in report.edits] for report in (of_draft, of_text))
        better = sum(a < b for a, b in zip(after, before, strict=True))
        worse = sum(a > b for a, b in zip(after, before, strict=True))
        for reference, draft, text, b, a in zip(said, drafts, texts, before, after, strict=True):
            if a != b:
                print(f"{b} -> {a}  {reference}\n   draft  {draft}\n   text   {text}")
        told = f"draft {of_draft.wer:.1%}, text {of_text.wer:.1%} WER, {better} clips better, {worse} worse"
        print(f"{test}, {len(cuts)} clips: {told}", flush=True)


if __name__ == "__main__":
    main()
