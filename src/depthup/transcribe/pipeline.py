"""transformers' `pipeline("automatic-speech-recognition")` with models of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Optional, Union

import numpy as np
from transformers import AutomaticSpeechRecognitionPipeline, Pipeline

from depthup.data.waveform import waveform
from depthup.errors import UserError
from depthup.model.processor import SpeechProcessor
from depthup.registration import MODEL_TYPE
from depthup.transcribe.recordings import transcribe_recordings
from depthup.transcribe.transcript import Transcript


class ForAnyModel(AutomaticSpeechRecognitionPipeline):
    """Stands where transformers looks for its own pipeline, and hands models of ours to ours, all others to its own."""

    def __new__(cls, model: Any, *args: Any, **kwargs: Any) -> Any:
        ours = model.config.model_type == MODEL_TYPE
        return (SpeechRecognitionPipeline if ours else AutomaticSpeechRecognitionPipeline)(model, *args, **kwargs)


class SpeechRecognitionPipeline(Pipeline):
    """Recordings of any length in, `{"text": ...}` out.

    A recording is a path, a URL, bytes of a file, samples, or `{"array", "sampling_rate"}`; many are a list, dataset or
    generator, and are batched by seconds of audio (`batch_seconds`), whatever `batch_size` says. Options are those of
    `depthup.transcribe.options.Options`, also as `generate_kwargs`; `chunk_length_s` is its `max_seconds`. With
    `return_timestamps` the result has `chunks` of text with (start, end) in seconds: segments, or words with "word".
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        feature_extractor: Any = None,
        processor: Optional[SpeechProcessor] = None,
        **kwargs: Any,
    ) -> None:
        self.recordings = processor or SpeechProcessor.of(model.config, feature_extractor, tokenizer)
        super().__init__(model, tokenizer=self.recordings.tokenizer, processor=self.recordings, **kwargs)

    def _sanitize_parameters(
        self,
        return_timestamps: Union[bool, str, None] = None,
        generate_kwargs: Optional[dict[str, Any]] = None,
        chunk_length_s: Optional[float] = None,
        **options: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if return_timestamps not in (None, False, True, "word"):
            raise UserError(f'return_timestamps {return_timestamps!r}: give True for segments or "word" for words')
        if return_timestamps == "word" and self.model.ctc_head is None:
            raise UserError("return_timestamps word: times of words come from a CTC head, which this model has not")
        options |= generate_kwargs or {}
        if chunk_length_s is not None:
            options["max_seconds"] = chunk_length_s
        return {}, options, {} if return_timestamps is None else {"return_timestamps": return_timestamps}

    def preprocess(self, inputs: Any) -> np.ndarray:
        return waveform(inputs, self.recordings.sampling_rate)

    def _forward(self, samples: np.ndarray, **options: Any) -> Transcript:
        return next(iter(self._transcribe([samples], options)))

    def _transcribe(self, recordings: Iterable[np.ndarray], options: dict[str, Any]) -> Iterator[Transcript]:
        return transcribe_recordings(self.model, self.recordings, recordings, **options)

    def postprocess(self, transcript: Transcript, return_timestamps: Union[bool, str] = False) -> dict[str, Any]:
        told: dict[str, Any] = {"text": transcript.text}
        if return_timestamps:
            words = (word for segment in transcript.segments for word in segment.words)
            spans = words if return_timestamps == "word" else transcript.segments
            told["chunks"] = [{"text": span.text, "timestamp": (span.start, span.end)} for span in spans]
        return told

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        recordings = (self.preprocess(one) for one in inputs)
        for transcript in self._transcribe(recordings, forward_params):
            yield self.postprocess(transcript, **postprocess_params)
