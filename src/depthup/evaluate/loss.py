"""Loss on transcripts that were not trained on: cheap, and finer than WER for choosing a learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
from lhotse.cut import Cut

from depthup.config import DataConfig
from depthup.data import BadAudio, load_cuts
from depthup.data.audio import say_once
from depthup.data.tokens import read_speech
from depthup.data.transcripts import prompt_and_answer
from depthup.errors import UserError
from depthup.transcribe.batches import batches_of_like_length, inference


def readable(clips: Iterable[Cut], processor: Any, data: DataConfig, source: str) -> tuple[list[Cut], list[np.ndarray]]:
    """The clips whose audio can be read, and their samples; others are named, or raised with `data.strict`.

    Raises UserError if none is left.
    """
    cuts: list[Cut] = []
    audio = []
    for cut in clips:
        try:
            audio.append(read_speech(cut, processor))
            cuts.append(cut)
        except BadAudio as error:
            if data.strict:
                raise
            say_once(f"skipped in validation: {error}")
    if not cuts:
        raise UserError(f"{source}: no clip in it can be read; check the manifest")
    return cuts, audio


def validation_loss(model: Any, processor: Any, source: str, data: DataConfig, limit: int | None = None) -> float:
    """Mean negative log likelihood in nats per transcript token over the clips of `source` (at most `limit`).

    Clips whose audio cannot be read are left out and named, or raised with `data.strict`. Raises UserError if none is
    left.
    """
    cuts, audio = readable(islice(load_cuts(source, data, "any"), limit), processor, data, source)
    total, tokens = 0.0, 0
    with inference(model):
        for batch in batches_of_like_length([cut.duration for cut in cuts], data.batch_seconds):
            prompts, texts = zip(*(prompt_and_answer(cuts[i], data) for i in batch), strict=True)
            inputs = processor.training_batch([audio[i] for i in batch], texts, prompts=prompts)
            inputs = {k: v.to(model.device) for k, v in inputs.items() if not k.startswith("ctc")}
            count = int((inputs["labels"] >= 0).sum())
            total += float(model(**inputs).loss) * count
            tokens += count
    return total / tokens
