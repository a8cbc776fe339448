"""From a corpus, a machine and a language to the values of a recipe, each with its reason.

What was measured on real speech is in docs/real-speech.md: Whisper base, 2 to 6.5 hours, CPU. Beyond that the values
follow the recipes of this project that were planned and not run, and the reasons say so.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from transformers.models.whisper.tokenization_whisper import LANGUAGES

from depthup.errors import UserError
from depthup.evaluate.language import DEFAULT, rules
from depthup.machine import Machine
from depthup.new.corpus import SENTENCES, Corpus

MEASURED_HOURS = 6.5
FRONT_END_PASSES, CTC_PASSES, LLM_PASSES, ONE_PASS_HOURS = 1.25, 5.0, 0.37, 1000.0
LEAST_FRONT_END_STEPS, LEAST_CTC_STEPS, LEAST_STEPS = 50, 1000, 100
FEW_HOURS = 2.0
"""Below, a Whisper's decoder learns without a CTC head beside it, and the LLM also from texts of its own."""
FULL = 0.966
"""Of `batch_seconds` a batch holds so much."""
CPU_FRONT_END, CPU_LLM = 14.0, 12.3
"""Seconds of audio a second that one core learnt from in bfloat16, Whisper base and SmolLM2-135M."""


@dataclass(frozen=True)
class Size:
    """What a machine bears."""

    memory: float
    """GiB of a GPU, 0 for a CPU."""
    base: str
    encoder: str
    batch_seconds: int
    reason: str


SIZES = (
    Size(70, "HuggingFaceTB/SmolLM2-1.7B-Instruct", "openai/whisper-large-v3", 240, "planned for 80 GB; not run"),
    Size(20, "HuggingFaceTB/SmolLM2-360M-Instruct", "openai/whisper-small", 240, "planned for 24 GB; not run"),
    Size(1, "HuggingFaceTB/SmolLM2-135M-Instruct", "openai/whisper-base", 120, "for GPUs under 20 GB; not run"),
    Size(0, "HuggingFaceTB/SmolLM2-135M-Instruct", "openai/whisper-base", 60, "as measured on a CPU"),
)
WHISPER_NAMES = {"nb": "no", "jv": "jw", "fil": "tl"}
OTHER_LANGUAGES = {True: "facebook/w2v-bert-2.0", False: "facebook/wav2vec2-xls-r-300m"}
"""Encoders that heard over a hundred languages, on GPUs and on CPUs, for languages that no Whisper writes."""


@dataclass(frozen=True)
class Choices:
    """The values of a recipe that depend on what is learnt, and where."""

    size: Size
    base: str
    encoder: str
    language: str
    """BCP 47."""
    assumed: bool
    """Neither clips nor user say so."""
    whisper_language: str
    """As Whisper calls it."""
    decoder: bool
    """A Whisper's own decoder writes the draft; a CTC head else."""
    dtype: str
    spoken: bool
    front_end_steps: int
    max_steps: int
    max_duration: int
    cpu_hours: Optional[float]
    """What training takes on a core like the measured one."""


def choose(
    corpus: Corpus, machine: Machine, language: Optional[str], base: Optional[str] = None, encoder: Optional[str] = None
) -> Choices:
    """`language`, `base` and `encoder` are the user's own, where given. Raises UserError."""
    on_gpu = machine.gpu is not None
    size = next(size for size in SIZES if (machine.gpu_memory if on_gpu else 0) >= size.memory)
    if base or encoder:
        size = replace(size, reason="for models of this size: smaller for larger ones")
    code = rules(language or corpus.language or DEFAULT).code
    of_whisper = WHISPER_NAMES.get(code.split("-")[0], code.split("-")[0])
    written = of_whisper in LANGUAGES
    chosen = encoder or (size.encoder if written else OTHER_LANGUAGES[on_gpu])
    decoder = written and _is_whisper(chosen)
    if decoder and chosen.endswith(".en") and of_whisper != "en":
        raise UserError(f"encoder {chosen}: writes English alone; for {code} take a multilingual Whisper")
    once = corpus.hours > ONE_PASS_HOURS
    passes, least = (FRONT_END_PASSES, LEAST_FRONT_END_STEPS) if decoder else (CTC_PASSES, LEAST_CTC_STEPS)
    passes, llm_passes = (1.0, 0.3) if once else (passes, LLM_PASSES)
    front_end = _steps(passes * corpus.hours, size, least)
    steps = _steps(llm_passes * corpus.hours, size, LEAST_STEPS)
    measured = not on_gpu and machine.bfloat16 and decoder and base is None and encoder is None
    heard = size.batch_seconds * FULL / 3600
    return Choices(
        size=size,
        base=base or size.base,
        encoder=chosen,
        language=code,
        assumed=language is None and corpus.language is None,
        whisper_language=of_whisper,
        decoder=decoder,
        dtype="bfloat16" if not on_gpu and machine.bfloat16 else "auto",
        spoken=bool(set(corpus.styles) - {SENTENCES}),
        front_end_steps=front_end,
        max_steps=steps,
        max_duration=math.ceil(corpus.longest),
        cpu_hours=heard * (front_end / CPU_FRONT_END + steps / CPU_LLM) if measured else None,
    )


def _is_whisper(encoder: str) -> bool:
    config = Path(encoder).expanduser() / "config.json"
    if config.is_file():
        return json.loads(config.read_text(encoding="utf-8")).get("model_type") == "whisper"
    return "whisper" in encoder.lower()


def _steps(hours: float, size: Size, least: int) -> int:
    """Steps that hear so many hours, to two digits."""
    steps = max(least, hours * 3600 / (size.batch_seconds * FULL))
    unit = 10 ** max(0, math.floor(math.log10(steps)) - 1)
    return round(steps / unit) * unit
