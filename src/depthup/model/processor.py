"""Text and audio in, model inputs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Optional, Union

import numpy as np
import torch
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from depthup.config import AUDIO_MARKER, EncoderConfig
from depthup.model.base import fetched
from depthup.model.configuration import SpeechLMConfig
from depthup.model.instruction import Instruction
from depthup.model.speech_encoder import FbankEncoder, WhisperEncoder, build_feature_extractor

IGNORE = -100
"""Label of positions without loss."""
WORD_MARKS = "\u0120\u2581 "
"""How tokenizers write the space before a word."""

FeatureTransform = Callable[[np.ndarray], np.ndarray]


class SpeechProcessor(ProcessorMixin):
    """Tokenizer and feature extractor in one.

    Each `<|audio|>` in a text becomes one placeholder id per speech frame; the id lies outside the vocabulary.
    """

    attributes = ["feature_extractor", "tokenizer"]
    feature_extractor_class = "AutoFeatureExtractor"
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: PreTrainedTokenizerBase,
        encoder: Optional[dict[str, Any]] = None,
        audio_token_id: int = 0,
        frame_stack: int = 1,
        waveform_layers: Sequence[Sequence[int]] = (),
        prompt: str = AUDIO_MARKER,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            encoder: fields of `EncoderConfig`.
            audio_token_id: placeholder of a speech frame.
            frame_stack: encoder frames per placeholder.
            waveform_layers: (kernel, stride) of a waveform encoder's convolutions; empty for log-mel encoders.
            prompt: the recipe's prompt, which `training_batch` and `prompt_batch` put before a transcript.
        """
        self.encoder = encoder or {}
        self.audio_token_id = audio_token_id
        self.frame_stack = frame_stack
        self.waveform_layers = [list(layer) for layer in waveform_layers]
        self.prompt = prompt
        super().__init__(feature_extractor, tokenizer)

    @classmethod
    def build(cls, config: SpeechLMConfig) -> SpeechProcessor:
        """The processor of a model, with the base's tokenizer."""
        encoder = EncoderConfig(**(config.encoder or {}))
        tokenizer = AutoTokenizer.from_pretrained(fetched(config.base), revision=config.base_revision)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        hf = config.encoder_config or {}
        layers = list(zip(hf["conv_kernel"], hf["conv_stride"], strict=True)) if "conv_kernel" in hf else []
        return cls(
            build_feature_extractor(encoder),
            tokenizer,
            encoder=config.encoder,
            audio_token_id=config.audio_token_id,
            frame_stack=config.frame_stack,
            waveform_layers=layers,
            prompt=config.prompt,
        )

    @property
    def sampling_rate(self) -> int:
        return self.feature_extractor.sampling_rate

    def num_frames(self, input_length: int) -> int:
        """Speech frames that the LLM gets for a clip of `input_length` features or samples."""
        length = torch.tensor(input_length)
        if self.waveform_layers:
            for kernel, stride in self.waveform_layers:
                length = (length - kernel) // stride + 1
        elif self.encoder.get("name") == "fbank":
            length = FbankEncoder.output_lengths(length)
        else:
            length = WhisperEncoder.output_lengths(length)
        return int((length + self.frame_stack - 1) // self.frame_stack)

    @property
    def _shortest(self) -> int:
        """Samples that give one frame; Whisper's extractor also reflects the clip at its ends and needs as many."""
        if not self.waveform_layers:
            return self.feature_extractor.n_fft
        samples = 1
        for kernel, stride in reversed(self.waveform_layers):
            samples = (samples - 1) * stride + kernel
        return samples

    def features(
        self, samples: np.ndarray, transform: Optional[FeatureTransform] = None, device: str = "cpu"
    ) -> np.ndarray:
        """One clip [samples] at `sampling_rate` -> log-mel [frames, mel bins]; for waveform encoders [samples, 1]."""
        samples = np.pad(samples, (0, max(0, self._shortest - len(samples))))
        if self.waveform_layers:
            values = self.feature_extractor(samples, sampling_rate=self.sampling_rate)["input_values"][0]
            return np.asarray(values, dtype=np.float32)[:, None]
        mel = self.feature_extractor(
            samples,
            sampling_rate=self.sampling_rate,
            padding=False,
            truncation=False,
            return_tensors="np",
            device=device,
        )["input_features"][0].T
        return np.asarray(transform(mel) if transform else mel, dtype=np.float32)

    def __call__(
        self,
        text: Union[str, Sequence[str]],
        audio: Union[np.ndarray, Sequence[np.ndarray], None] = None,
        padding_side: str = "left",
        feature_transform: Optional[FeatureTransform] = None,
        device: str = "cpu",
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs for texts with any number of `<|audio|>` in each.

        Args:
            text: B texts.
            audio: mono float waveforms at `sampling_rate`, as many as there are markers, in reading order.
            padding_side: "left" for generation, "right" otherwise.
            device: where log-mel features are computed; all that is returned lies in main memory.

        Returns input_ids and attention_mask [B, T], and where there is audio input_features [N, L, F] and
        input_lengths [N]. Raises ValueError when markers and clips do not match.
        """
        texts = [text] if isinstance(text, str) else list(text)
        clips = [audio] if isinstance(audio, np.ndarray) and audio.ndim == 1 else list([] if audio is None else audio)
        markers = sum(t.count(AUDIO_MARKER) for t in texts)
        if markers != len(clips):
            raise ValueError(f"{len(clips)} audio pieces for {markers} {AUDIO_MARKER} markers in the text")
        features = [self.features(clip, feature_transform, device) for clip in clips]
        waiting = iter(features)
        rows = [self._ids(t, waiting) for t in texts]
        return BatchFeature(_pad_ids(rows, self.tokenizer.pad_token_id, padding_side) | self._pad_features(features))

    def training_batch(
        self, audio: list[np.ndarray], texts: list[str], feature_transform: Optional[FeatureTransform] = None
    ) -> dict[str, torch.Tensor]:
        """Prompt and transcript for each clip, right-padded.

        Returns what `__call__` does, and labels [B, T] with -100 wherever no transcript token stands, and
        ctc_labels [N, L] (bytes + 1, padded with 0) with ctc_label_lengths [N].
        """
        features = [self.features(clip, feature_transform) for clip in audio]
        waiting = iter(features)
        rows, labels = [], []
        for text in texts:
            prompt = self._ids(self.prompt, waiting)
            answer = self.answer_ids(text)
            rows.append(prompt + answer)
            labels.append([IGNORE] * len(prompt) + answer)
        batch = _pad_ids(rows, self.tokenizer.pad_token_id, "right") | self._pad_features(features)
        spelled = [torch.tensor(list(text.strip().encode())) + 1 for text in texts]
        return batch | {
            "labels": _pad(labels, IGNORE, "right"),
            "ctc_labels": torch.nn.utils.rnn.pad_sequence(spelled, batch_first=True),
            "ctc_label_lengths": torch.tensor([len(s) for s in spelled]),
        }

    def answer_ids(self, text: str) -> list[int]:
        """A transcript as the LLM is taught to write it, with its end of sequence."""
        return self._encode(" " + text.strip(), first=False) + [self.tokenizer.eos_token_id]

    @cached_property
    def word_starts(self) -> frozenset[int]:
        """Tokens that begin a word (as byte-level and SentencePiece tokenizers mark it), and the end of sequence."""
        tokens = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        starts = {i for i, token in enumerate(tokens) if token and token[0] in WORD_MARKS}
        return frozenset(starts | {self.tokenizer.eos_token_id})

    def prompt_batch(
        self, audio: list[np.ndarray], device: str = "cpu", instruction: Optional[Instruction] = None
    ) -> dict[str, torch.Tensor]:
        """The recipe's prompt, or an instruction's, for each clip, left-padded, ready for `model.generate`."""
        prompt, before = self.prompt, []
        if instruction is not None:
            prompt, before = instruction.prompt(self.tokenizer), instruction.clips
        return dict(self([prompt] * len(audio), [one for clip in audio for one in (*before, clip)], device=device))

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As the tokenizer's, with content parts `{"type": "audio"}` turned into markers for `__call__`."""
        return self.tokenizer.apply_chat_template(_flatten(conversation), *args, **{"tokenize": False, **kwargs})

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "input_features", "input_lengths"]

    def _encode(self, text: str, first: bool) -> list[int]:
        return self.tokenizer(text, add_special_tokens=first)["input_ids"] if text or first else []

    def _ids(self, text: str, features: Any) -> list[int]:
        pieces = text.split(AUDIO_MARKER)
        begun = self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token)  # as chat templates do
        ids = self._encode(pieces[0], first=not begun)
        for piece in pieces[1:]:
            ids += [self.audio_token_id] * self.num_frames(len(next(features)))
            ids += self._encode(piece, first=False)
        return ids

    def _pad_features(self, features: list[np.ndarray]) -> dict[str, torch.Tensor]:
        if not features:
            return {}
        tensors = [torch.from_numpy(f) for f in features]
        padded = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
        if self.encoder.get("pad_to_30s"):
            missing = self.feature_extractor.nb_max_frames - padded.shape[1]
            padded = torch.nn.functional.pad(padded, (0, 0, 0, missing), value=float(padded.min()))
        return {"input_features": padded, "input_lengths": torch.tensor([len(f) for f in features])}


def _pad(rows: list[list[int]], value: int, side: str) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=value, padding_side=side
    )


def _pad_ids(rows: list[list[int]], pad: int, side: str) -> dict[str, torch.Tensor]:
    mask = _pad([[1] * len(row) for row in rows], 0, side)
    return {"input_ids": _pad(rows, pad, side), "attention_mask": mask}


def _flatten(conversation: Any) -> Any:
    """Messages whose content is a list of parts -> the same with plain text and markers."""
    if conversation and isinstance(conversation[0], list):
        return [_flatten(c) for c in conversation]
    kinds = {"audio": lambda part: AUDIO_MARKER, "text": lambda part: part["text"]}
    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": "".join(kinds[part["type"]](part) for part in message["content"])}
        for message in conversation
    ]
