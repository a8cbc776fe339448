"""Text and audio in, model inputs out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from depthup.config import AUDIO_MARKER, ConnectorConfig
from depthup.errors import UserError
from depthup.model.base import load_tokenizer, word_starts
from depthup.model.chat import Templates, with_audio, with_recordings
from depthup.model.configuration import SpeechLMConfig
from depthup.model.connectors import CONNECTORS
from depthup.model.ctc import UNKNOWN
from depthup.model.encoders import EncoderKind, kept_kind
from depthup.model.encoders.kind import FeatureTransform
from depthup.model.encoders.writer import AS_TRAINED
from depthup.model.instruction import Instruction
from depthup.model.positions import IGNORE
from depthup.model.remote_code import AUTO_MAP, CodeFromPackage, write_code
from depthup.speech_tokens.tokenizer import SpeechTokenizer


class SpeechProcessor(CodeFromPackage, ProcessorMixin):
    """Tokenizer and feature extractor in one.

    Each `<|audio|>` in a text becomes one placeholder id per speech frame, or a single one where what is heard decides
    how many positions the recording takes; the id lies outside the vocabulary.
    """

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: PreTrainedTokenizerBase,
        encoder: Optional[dict[str, Any]] = None,
        audio_token_id: int = 0,
        frame_stack: int = 1,
        positions_from_length: bool = True,
        encoder_config: Optional[dict[str, Any]] = None,
        prompt: str = AUDIO_MARKER,
        chat_template: Templates = None,
    ) -> None:
        """
        Args:
            encoder: fields of `EncoderConfig`.
            audio_token_id: placeholder of a speech frame.
            frame_stack: encoder frames per placeholder.
            positions_from_length: of the model's connector; without it a recording has one placeholder.
            encoder_config: configuration of a Hugging Face encoder; without it the encoder's name is looked up.
            prompt: the recipe's prompt, which `training_batch` and `prompt_batch` put before a transcript.
            chat_template: one for messages with recordings in them.
        """
        self.encoder = encoder or {}
        self.audio_token_id = audio_token_id
        self.frame_stack = frame_stack
        self.positions_from_length = positions_from_length
        self.encoder_config = encoder_config
        self.prompt = prompt
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    @classmethod
    def kept_in(cls, directory: Path) -> SpeechProcessor:
        """A checkpoint's. Raises UserError where its files are missing or damaged."""
        try:
            return cls.from_pretrained(directory)
        except (OSError, KeyError, TypeError, ValueError) as error:
            reason = str(error).split(". ")[0].splitlines()[0][:200]
            raise UserError(
                f"{directory}: the processor's files are missing or damaged ({reason}); copy all"
            ) from error

    @classmethod
    def build(cls, config: SpeechLMConfig) -> SpeechProcessor:
        """The processor of a model, with the base's tokenizer."""
        tokenizer = load_tokenizer(*config.base_source)
        return cls.of(config, kept_kind(config.encoder, config.encoder_config).feature_extractor(), tokenizer)

    @classmethod
    def of(cls, config: SpeechLMConfig, feature_extractor: Any, tokenizer: PreTrainedTokenizerBase) -> SpeechProcessor:
        """The processor of a model, from its parts."""
        return cls(
            feature_extractor,
            tokenizer,
            encoder=config.encoder,
            audio_token_id=config.audio_token_id,
            frame_stack=config.frame_stack,
            positions_from_length=CONNECTORS[ConnectorConfig(**(config.connector or {})).name].positions_from_length,
            encoder_config=config.encoder_config,
            prompt=config.prompt,
            chat_template=with_audio(tokenizer.chat_template),
        )

    def save_pretrained(self, save_directory: Union[str, Path], push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As any processor's, with a speech tokenizer's centroids, and what loads it without an import of depthup."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        write_code(Path(save_directory))
        if isinstance(self.feature_extractor, SpeechTokenizer):
            self.feature_extractor.save_centroids(Path(save_directory))
        return super().save_pretrained(str(save_directory), push_to_hub, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As any processor's, with the class that transformers finds by `trust_remote_code`."""
        return super().to_dict() | {"auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]}}

    @cached_property
    def kind(self) -> EncoderKind:
        """What counts features and frames."""
        return kept_kind(self.encoder, self.encoder_config)

    @property
    def sampling_rate(self) -> int:
        return self.feature_extractor.sampling_rate

    @property
    def language(self) -> Optional[str]:
        """What the recipe says is spoken, where it tells a decoder so."""
        return self.encoder.get("language")

    @property
    def longest_seconds(self) -> float:
        """Seconds of the longest clip that the encoder hears."""
        return math.inf if self.kind.longest is None else self.kind.longest / self.sampling_rate

    def seconds(self, clip: np.ndarray) -> float:
        """How long a clip lasts, samples [samples] or ids [T, streams]."""
        return len(clip) / (self.sampling_rate if clip.ndim == 1 else self.kind.frame_rate)

    def num_frames(self, input_length: int) -> int:
        """Placeholders of a clip of `input_length` features."""
        if not self.positions_from_length:
            return 1
        length = self.kind.output_lengths(torch.tensor(input_length))
        return int((length + self.frame_stack - 1) // self.frame_stack)

    def features(
        self, samples: np.ndarray, transform: Optional[FeatureTransform] = None, device: str = "cpu"
    ) -> np.ndarray:
        """One clip [samples] at `sampling_rate` -> features [L, F], as the kind of encoder wants them.

        A clip of speech tokens [T, streams] is what it is. Raises UserError for a clip that is longer than the encoder
        hears.
        """
        kind, seconds = self.kind, self.seconds(samples)
        if samples.ndim == 2 and kind.codebook_sizes:
            return samples
        if seconds > self.longest_seconds:
            raise UserError(
                f"a clip of {seconds:.1f} s: the encoder {kind.config.name} hears at most "
                f"{self.longest_seconds:g} s; cut it into shorter ones, or leave it out with data.max_duration"
            )
        samples = np.pad(samples, (0, max(0, kind.shortest - len(samples))))
        return kind.features(self.feature_extractor, samples, transform, device)

    def __call__(  # type: ignore[override]
        self,
        text: Union[str, Sequence[str], None] = None,
        audio: Any = None,
        *,
        sampling_rate: Optional[int] = None,
        padding_side: str = "left",
        add_special_tokens: bool = True,
        feature_transform: Optional[FeatureTransform] = None,
        device: str = "cpu",
        language: Union[str, Sequence[Optional[str]], None] = None,
        padding: Union[bool, str] = True,
        return_tensors: Optional[str] = "pt",
        images: None = None,
        videos: None = None,
    ) -> BatchFeature:
        """Model inputs for texts with any number of `<|audio|>` in each.

        Args:
            text: B texts; without them the recipe's prompt for each recording.
            audio: as many recordings as there are markers, in reading order: mono float waveforms [samples], what
                `depthup.data.waveform` reads, or in a list speech tokens [T, streams].
            sampling_rate: Hz of waveforms; it must be the processor's, and is taken to be where it is not given.
            padding_side: "left" for generation, "right" otherwise.
            add_special_tokens: begin texts as the tokenizer does.
            device: where log-mel features are computed; all that is returned lies in main memory.
            language: what is spoken, for a multilingual Whisper's decoder: a code or English name for all recordings,
                or one for each.
            padding: True, which other processors want to be told.
            return_tensors: the same, "pt".

        Returns input_ids and attention_mask [B, T], and where there is audio input_features [N, L, F] and
        input_lengths [N], with a language input_languages [N]. Raises ValueError when markers and clips or sampling
        rates do not match, UserError where the model cannot be told a language.
        """
        other = padding not in (True, "longest") or return_tensors not in ("pt", None)
        if images is not None or videos is not None or other:
            raise ValueError('SpeechProcessor takes text and audio, padding=True and return_tensors="pt"')
        clips = self._clips(audio, sampling_rate)
        texts = [text] if isinstance(text, str) else [self.prompt] * len(clips) if text is None else list(text)
        markers = sum(t.count(AUDIO_MARKER) for t in texts)
        if markers != len(clips):
            raise ValueError(f"{len(clips)} audio pieces for {markers} {AUDIO_MARKER} markers in the text")
        features = [self.features(clip, feature_transform, device) for clip in clips]
        waiting = iter(features)
        rows = [self._ids(t, waiting, add_special_tokens) for t in texts]
        batch = _pad_ids(rows, self.tokenizer.pad_token_id, padding_side) | self._pad_features(features)
        return BatchFeature(batch | self.languages(language, len(clips)))

    def _clips(self, audio: Any, sampling_rate: Optional[int] = None) -> list[np.ndarray]:
        """Waveforms at the processor's rate."""
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"sampling_rate={sampling_rate}: the recordings must be at {self.sampling_rate} Hz; resample them first"
            )
        clips = _listed(audio)
        if all(isinstance(clip, np.ndarray) and (clip.dtype == np.float32 or clip.ndim == 2) for clip in clips):
            return clips
        from depthup.data.waveform import waveform

        return [waveform(clip, self.sampling_rate) for clip in clips]

    def training_batch(
        self,
        audio: Sequence[np.ndarray],
        texts: Sequence[str],
        feature_transform: Optional[FeatureTransform] = None,
        prompts: Optional[Sequence[Optional[str]]] = None,
    ) -> dict[str, torch.Tensor]:
        """Prompt and transcript for each clip, right-padded; a clip with a prompt of its own has an answer instead.

        Returns what `__call__` does, and labels [B, T] with -100 wherever no token of a text stands, and
        ctc_labels [N, L] (bytes + 1, padded with 0) with ctc_label_lengths [N], -1 for answers, which nobody said.
        """
        features = [self.features(clip, feature_transform) for clip in audio]
        waiting = iter(features)
        own = [None] * len(texts) if prompts is None else prompts
        asked_ids = [self._ids(asked or self.prompt, waiting) for asked in own]
        batch = self._answered(asked_ids, texts) | self._pad_features(features)
        said = ["" if asked else text.strip() for asked, text in zip(own, texts, strict=True)]
        spelled = [torch.tensor(list(text.encode()), dtype=torch.long) + 1 for text in said]
        sizes = [UNKNOWN if asked else len(text) for asked, text in zip(own, spelled, strict=True)]
        return batch | {
            "ctc_labels": torch.nn.utils.rnn.pad_sequence(spelled, batch_first=True),
            "ctc_label_lengths": torch.tensor(sizes),
        }

    def drafted_batch(self, drafts: list[str], texts: list[str]) -> dict[str, torch.Tensor]:
        """The same without recordings, for a model that reads drafts: prompt, draft in its place, and transcript.

        Returns input_ids, attention_mask and labels [B, T], and speech_ids [B, T], 1 where the draft stands.
        """
        before, _, after = self.prompt.partition(AUDIO_MARKER)
        first, last = self._encode(before, first=True), self._encode(after, first=False)
        heard = [self._encode(" " + draft, first=False) for draft in drafts]
        batch = self._answered([first + ids + last for ids in heard], texts)
        place = torch.arange(batch["input_ids"].shape[1]) - len(first)
        spoken = (place >= 0) & (place < torch.tensor([len(ids) for ids in heard])[:, None])
        return batch | {"speech_ids": spoken.long()}

    def _answered(self, prompts: list[list[int]], texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Rows of a prompt's ids and the text after it, right-padded, with labels where the text stands."""
        answers = [self.answer_ids(text) for text in texts]
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        labels = [[IGNORE] * len(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)]
        batch = _pad_ids(rows, self.tokenizer.pad_token_id, "right")
        return batch | {"labels": _pad(labels, IGNORE, "right")}

    def answer_ids(self, text: str) -> list[int]:
        """A transcript as the LLM is taught to write it, with its end of sequence."""
        return self._encode(" " + text.strip(), first=False) + [self.tokenizer.eos_token_id]

    @cached_property
    def word_starts(self) -> frozenset[int]:
        return word_starts(self.tokenizer)

    def prompt_batch(
        self,
        audio: list[np.ndarray],
        device: str = "cpu",
        instruction: Optional[Instruction] = None,
        prompt: Union[str, Sequence[str], None] = None,
        language: Optional[str] = None,
    ) -> dict[str, torch.Tensor]:
        """The recipe's prompt behind `prompt`, or an instruction's, for each clip, left-padded, for `model.generate`.

        `prompt` may be one for each clip, and stands in the recipe's place where it holds `<|audio|>`.
        Raises UserError where both are given, or the model cannot be told a language.
        """
        if instruction is not None and prompt is not None:
            raise UserError("give a prompt or an instruction, not both")
        before: list[np.ndarray] = []
        prompts = [prompt] * len(audio) if prompt is None or isinstance(prompt, str) else list(prompt)
        texts = [self._prompt_with(one) for one in prompts]
        if instruction is not None:
            texts, before = [instruction.prompt(self.tokenizer)] * len(audio), instruction.clips
        clips = [one for clip in audio for one in (*before, clip)]
        return dict(self(texts, clips, device=device, language=language))

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As any processor's: text, or with `tokenize=True, return_dict=True` the model's inputs.

        Contents are text or lists of `{"type": "text", "text"}` and `{"type": "audio"}`, with the recording under
        `audio`, `path` or `url` as `depthup.data.waveform` reads it.
        """
        if kwargs.get("tokenize"):
            from depthup.data.waveform import waveform

            conversation = with_recordings(conversation, lambda audio: waveform(audio, self.sampling_rate))
        return super().apply_chat_template(conversation, *args, **kwargs)

    def apply_transcription_request(
        self,
        audio: Any,
        language: Union[str, Sequence[Optional[str]], None] = None,
        prompt: Union[str, Sequence[Optional[str]], None] = None,
        tokenize: bool = True,
        **kwargs: Any,
    ) -> Union[BatchFeature, list[str]]:
        """Inputs for `model.generate` that make it transcribe, one row for each recording.

        Args:
            audio: one recording or several, as in a call.
            language: what is spoken, for a multilingual Whisper's decoder; one, or one for each recording. Raises
                UserError where the model has no such decoder.
            prompt: what comes before the recipe's prompt, such as names and terms, or what was said before; with
                `<|audio|>` in it, what stands in that prompt's place. One, or one for each recording.
            tokenize: False returns the prompts as text.
            kwargs: as in a call, such as `sampling_rate`.
        """
        recordings = _listed(audio)
        if not recordings:
            raise ValueError("apply_transcription_request: give at least one recording")
        prompts = [prompt] * len(recordings) if prompt is None or isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(recordings):
            raise ValueError(f"apply_transcription_request: {len(prompts)} prompts for {len(recordings)} recordings")
        texts = [self._prompt_with(p) for p in prompts]
        return self(texts, recordings, language=language, **kwargs) if tokenize else texts

    def _prompt_with(self, before: Optional[str]) -> str:
        if before is None:
            return self.prompt
        return before if AUDIO_MARKER in before else f"{before}\n{self.prompt}"

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "input_features", "input_lengths", "input_languages"]

    def _encode(self, text: str, first: bool) -> list[int]:
        return self.tokenizer(text, add_special_tokens=first)["input_ids"] if text or first else []

    def _ids(self, text: str, features: Any, first: bool = True) -> list[int]:
        pieces = text.split(AUDIO_MARKER)
        begun = self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token)  # as chat templates do
        ids = self._encode(pieces[0], first=first and not begun)
        for piece in pieces[1:]:
            ids += [self.audio_token_id] * self.num_frames(len(next(features)))
            ids += self._encode(piece, first=False)
        return ids

    def _pad_features(self, features: list[np.ndarray]) -> dict[str, torch.Tensor]:
        if not features:
            return {}
        return {"input_features": self.kind.pad(features), "input_lengths": torch.tensor([len(f) for f in features])}

    def languages(self, language: Union[str, Sequence[Optional[str]], None], count: int) -> dict[str, torch.Tensor]:
        """`input_languages` [count] for one language or one for each recording; nothing where none is named.

        Raises UserError where the model cannot be told a language, or hears another.
        """
        named = [language] * count if language is None or isinstance(language, str) else list(language)
        if len(named) != count:
            raise ValueError(f"{len(named)} languages for {count} recordings")
        if not any(named):
            return {}
        numbers = [AS_TRAINED if one is None else self.kind.language(one) for one in named]
        return {"input_languages": torch.tensor(numbers)}


def _pad(rows: list[list[int]], value: int, side: str) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=value, padding_side=side
    )


def _pad_ids(rows: list[list[int]], pad: int, side: str) -> dict[str, torch.Tensor]:
    mask = _pad([[1] * len(row) for row in rows], 0, side)
    return {"input_ids": _pad(rows, pad, side), "attention_mask": mask}


def _listed(audio: Any) -> list[Any]:
    """One recording or several -> a list; the rows of a two-dimensional array are several."""
    if audio is None:
        return []
    several = isinstance(audio, (list, tuple)) or getattr(audio, "ndim", 1) > 1
    return list(audio) if several else [audio]
