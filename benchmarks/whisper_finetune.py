"""What a user would do instead: the same Whisper fine-tuned by transformers' own trainer on the same recordings.

    python benchmarks/whisper_finetune.py recipes/english.yaml --encoder.name WHISPER --steps 1000 --output runs/whisper
    python benchmarks/whisper_finetune.py ... --test ../shared/speech/speechocean/test.jsonl

Reads a recipe's data, transcripts and encoder; its batches hold as many clips as the recipe's seconds allow on average.
Trains all of Whisper by `Seq2SeqTrainer` on features padded to 30 s, as its documentation does, and writes WER in
Whisper's English normaliser, and the processor's minutes. Resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoProcessor,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    WhisperForConditionalGeneration,
)
from transformers.trainer_utils import get_last_checkpoint

from depthup.config import Recipe
from depthup.data import load_cuts, read_audio
from depthup.data.transcripts import transcript
from depthup.evaluate import score
from depthup.model.encoders.writer import mended
from depthup.recipe import load_recipe


class Clips(Dataset):
    """Features and labels of the recipe's training clips."""

    def __init__(self, recipe: Recipe, processor: Any) -> None:
        self.data, self.processor, self.tokenizer = recipe.data, processor, mended(processor.tokenizer)
        longest = recipe.data.max_duration
        self.cuts = [cut for cut in load_cuts(recipe.data.train, recipe.data) if cut.duration <= longest]

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        cut = self.cuts[index]
        samples = read_audio(cut, 16000)
        features = self.processor.feature_extractor(samples, sampling_rate=16000, return_tensors="pt")
        text = transcript(str(cut.supervisions[0].text), self.data)
        words = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        labels = [*self.processor.tokenizer.prefix_tokens, *words, self.tokenizer.eos_token_id]
        return {"input_features": features["input_features"][0], "labels": labels}


def collate(clips: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    labels = [torch.tensor(clip["labels"][1:]) for clip in clips]  # the model puts the first one in front itself
    return {
        "input_features": torch.stack([clip["input_features"] for clip in clips]),
        "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def measure(model: Any, processor: Any, source: str, recipe: Recipe) -> dict[str, Any]:
    """WER of greedy transcripts."""
    references, hypotheses, began = [], [], time.perf_counter()
    cuts = list(load_cuts(source, recipe.data))
    model.eval()
    for first in range(0, len(cuts), 16):
        batch = cuts[first : first + 16]
        samples = [read_audio(cut, 16000) for cut in batch]
        features = processor.feature_extractor(samples, sampling_rate=16000, return_tensors="pt")["input_features"]
        prompt = torch.tensor([processor.tokenizer.prefix_tokens] * len(batch))  # language, task, no times
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
            ids = model.generate(
                features.to(model.device), decoder_input_ids=prompt, do_sample=False, max_new_tokens=99
            )
        hypotheses += processor.batch_decode(ids, skip_special_tokens=True)
        references += [str(cut.supervisions[0].text) for cut in batch]
    report = score(references, hypotheses, language=recipe.encoder.language or "en")
    return {"wer": report.wer, "interval": report.interval, "seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--output", required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16, help="clips in a batch")
    parser.add_argument("--learning-rate", type=float, default=1e-5, help="as the documentation's example has it")
    parser.add_argument("--test", action="append", default=[])
    options, overrides = parser.parse_known_args()
    recipe = load_recipe(options.recipe, overrides)
    processor = AutoProcessor.from_pretrained(recipe.encoder.name)
    model = WhisperForConditionalGeneration.from_pretrained(recipe.encoder.name, dtype=torch.float32)
    if recipe.encoder.language:
        processor.tokenizer.set_prefix_tokens(language=recipe.encoder.language, task="transcribe")
    arguments = Seq2SeqTrainingArguments(
        output_dir=options.output,
        per_device_train_batch_size=options.batch,
        max_steps=options.steps,
        learning_rate=options.learning_rate,
        warmup_steps=recipe.train.warmup_steps,
        bf16=recipe.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        save_steps=250,
        save_total_limit=1,
        logging_steps=20,
        report_to=[],
        seed=recipe.seed,
        remove_unused_columns=False,
    )
    trainer = Seq2SeqTrainer(model=model, args=arguments, train_dataset=Clips(recipe, processor), data_collator=collate)
    began = time.process_time()
    last = get_last_checkpoint(options.output) if Path(options.output).is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    found: dict[str, Any] = {"steps": options.steps, "training_minutes_now": (time.process_time() - began) / 60}
    found |= {source: measure(model, processor, source, recipe) for source in options.test}
    Path(options.output, "whisper_finetune.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
