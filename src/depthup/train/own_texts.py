"""Texts that the LLM writes itself, for simulated drafts where the training transcripts are few.

After some of the transcripts, line by line, it goes on with more lines, in their language and somewhat in their manner.
From a few hundred transcripts alone an LLM learns them by heart, and writes them in place of what it reads.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from depthup import files
from depthup.config import Recipe
from depthup.data import load_cuts
from depthup.data.transcripts import prompt_of, transcript
from depthup.errors import UserError

log = logging.getLogger("depthup")

SHOWN, ROWS, TOKENS = 8, 16, 64
"""Transcripts before each continuation; continuations at once, and tokens of each."""
READ = 5_000
"""Transcripts among which those are chosen."""
TOP_P = 0.95
FILE = "own_texts.json"
"""In the run directory, so that a resumed run reads the same."""


def own_texts(model: Any, processor: Any, recipe: Recipe) -> list[str]:
    """The run's texts: `simulated_drafts.own_texts` of them, written before the first step. Raises UserError."""
    path, count, data = Path(recipe.output_dir) / FILE, recipe.simulated_drafts.own_texts, recipe.data
    if path.is_file() and len(kept := json.loads(path.read_text(encoding="utf-8"))) == count:
        return kept
    cuts = islice(load_cuts(data.train, data), READ) if data.train else []
    transcripts = [transcript(str(cut.supervisions[0].text), data) for cut in cuts if not prompt_of(cut)]
    if not transcripts:
        raise UserError("simulated_drafts.own_texts: are written after transcripts, and data.train holds none")
    log.info("simulated_drafts.own_texts: the LLM writes %d texts after the transcripts, %d at once", count, ROWS)
    texts: dict[str, None] = {}
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        for written in islice(_written(model, processor, transcripts, recipe.seed), 1 + count // 4):
            texts |= dict.fromkeys(written)
            if len(texts) >= count:
                break
    if len(texts) < count:
        raise UserError(f"simulated_drafts.own_texts {count}: the LLM wrote {len(texts)} and then the same again")
    files.write_text(path, json.dumps(list(texts)[:count], ensure_ascii=False, indent=0) + "\n")
    return list(texts)[:count]


def _written(model: Any, processor: Any, transcripts: Sequence[str], seed: int) -> Iterator[list[str]]:
    """Lines of a batch of continuations; the last of each may end within a word, which is left out."""
    rng, tokenizer = random.Random(seed), processor.tokenizer
    training = model.training
    model.eval()
    try:
        while True:
            shown = [rng.sample(transcripts, min(SHOWN, len(transcripts))) for _ in range(ROWS)]
            prompts = ["".join(f"{text}\n" for text in row) for row in shown]
            given = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
            ids = {name: given[name] for name in ("input_ids", "attention_mask")}
            with torch.no_grad():
                rows = model.generate(
                    **ids, do_sample=True, temperature=1.0, top_k=0, top_p=TOP_P, max_new_tokens=TOKENS
                )
            lines = []
            for text in tokenizer.batch_decode(rows[:, ids["input_ids"].shape[1] :], skip_special_tokens=True):
                *whole, rest = text.split("\n")
                lines += [*whole, rest.rpartition(" ")[0]]
            yield [line.strip() for line in lines if any(map(str.isalpha, line))]
    finally:
        model.train(training)
