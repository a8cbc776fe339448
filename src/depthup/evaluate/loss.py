"""Loss on transcripts that were not trained on: cheap, and finer than WER for choosing a learning rate."""

from __future__ import annotations

from itertools import islice
from typing import Any

from lhotse.cut import Cut

from depthup.config import DataConfig
from depthup.data import BadAudio, load_cuts, read_audio
from depthup.errors import UserError
from depthup.transcribe.batches import batches_of_like_length, inference


def validation_loss(model: Any, processor: Any, source: str, data: DataConfig, limit: int | None = None) -> float:
    """Mean negative log likelihood in nats per transcript token over the clips of `source` (at most `limit`).

    Clips whose audio cannot be read are left out, or raised with `data.strict`. Raises UserError if none is left.
    """
    cuts: list[Cut] = []
    audio = []
    for cut in islice(load_cuts(source, data), limit):
        try:
            audio.append(read_audio(cut, processor.sampling_rate))
            cuts.append(cut)
        except BadAudio:
            if data.strict:
                raise
    if not cuts:
        raise UserError(f"{source}: no clip in it can be read; check the manifest")
    total, tokens = 0.0, 0
    with inference(model):
        for batch in batches_of_like_length([cut.duration for cut in cuts], data.batch_seconds):
            texts = [str(cuts[i].supervisions[0].text) for i in batch]
            inputs = processor.training_batch([audio[i] for i in batch], texts)
            inputs = {k: v.to(model.device) for k, v in inputs.items() if not k.startswith("ctc")}
            count = int((inputs["labels"] >= 0).sum())
            total += float(model(**inputs).loss) * count
            tokens += count
    return total / tokens
