"""How well the front end alone hears: what it makes out, scored without the LLM."""

from __future__ import annotations

from itertools import islice
from typing import Any

from depthup.config import DataConfig
from depthup.data import load_cuts
from depthup.data.transcripts import prompt_of
from depthup.errors import UserError
from depthup.evaluate.language import written_language
from depthup.evaluate.loss import readable
from depthup.evaluate.scores import AsrReport, score
from depthup.transcribe.batches import batches_of_like_length, inference


def evaluate_spelling(model: Any, processor: Any, source: str, data: DataConfig, limit: int | None = None) -> AsrReport:
    """CER and WER of the front end on those of `source` (at most `limit` clips) that have no prompt of their own.

    Raises UserError if none can be read.
    """
    said = [cut for cut in islice(iter(load_cuts(source, data, "any")), limit) if prompt_of(cut) is None]
    if not said:
        raise UserError(f"{source}: each clip has a `prompt` of its own, so none tells what is said; add some without")
    cuts, audio = readable(said, processor, data, source)
    texts = [""] * len(cuts)
    with inference(model):
        for batch in batches_of_like_length([cut.duration for cut in cuts], data.batch_seconds):
            inputs = processor.prompt_batch([audio[i] for i in batch], device=str(model.device))
            features, lengths = (inputs[name].to(model.device) for name in ("input_features", "input_lengths"))
            for i, text in zip(batch, model.make_out(features, lengths), strict=True):
                texts[i] = text
    told = [cut.supervisions[0] for cut in cuts]
    language = [one.language for one in told]
    default = data.language or written_language(model)
    return score([one.text or "" for one in told], texts, language=language, default_language=default)
