"""A commented recipe for one's own hours, machine and language: `depthup new`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Optional, Union

import yaml

from depthup import files
from depthup.config import DataConfig
from depthup.errors import UserError
from depthup.machine import Machine
from depthup.new.choices import FEW_HOURS, MEASURED_HOURS, Choices, choose
from depthup.new.corpus import LONGEST, Corpus
from depthup.new.corpus import measured as measured
from depthup.planning.hardware import GPUS
from depthup.recipe import load_recipe

COMMENTS = 32
"""Column of the comments."""
REPEAT = 'prompt: "Repeat the text. Text:<|audio|>\\nThe same text again:"  # else it mends what was right'
OWN_TEXTS = """simulated_drafts:
  own_texts: 600  # so few transcripts would be learnt by heart: the LLM writes more itself, and reads them misheard
  share: 0.67  # of the steps with the LLM"""
TEMPLATE = Path(__file__).parent / "recipe.yaml"


def new_recipe(
    path: Union[str, Path],
    corpus: Corpus,
    machine: Machine,
    language: Optional[str] = None,
    *,
    validation: Optional[str] = None,
    base: Optional[str] = None,
    encoder: Optional[str] = None,
    data: Optional[DataConfig] = None,
) -> Choices:
    """Write a recipe that is checked to load.

    Args:
        path: a new `.yaml` file.
        corpus: what is learnt from, measured or told.
        machine: what it trains on.
        language: of the recordings, by code or English name; by default what their clips say, else English.
        validation: a source of recordings of other speakers.
        base: the text LLM; by default one that the machine bears.
        encoder: the speech encoder, likewise.
        data: names of the fields in the sources.

    Raises UserError, among others where `path` stands already.
    """
    path, data = Path(path), data or DataConfig()
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{path}: a recipe's name ends in .yaml")
    if path.exists():
        raise UserError(f"{path}: exists already, and is left as it is; choose another name")
    chosen = choose(corpus, machine, language, base, encoder)
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        _filled(path, corpus, machine, chosen, validation, data)
    )
    try:
        files.write_text(path, "".join(f"{_aligned(line)}\n" for line in text.splitlines() if line.strip()))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    load_recipe(path)
    return chosen


def _aligned(line: str) -> str:
    """Comments stand under each other."""
    value, mark, why = line.partition("  # ")
    return f"{value.rstrip():<{COMMENTS - 1}} # {why.strip()}" if mark and value.strip() else line


def _filled(
    path: Path, corpus: Corpus, machine: Machine, chosen: Choices, validation: Optional[str], data: DataConfig
) -> dict[str, object]:
    """What stands at each place of the template."""
    far = "" if corpus.hours <= MEASURED_HOURS else f"; not measured beyond {MEASURED_HOURS:g} h"
    eval_steps = max(50, min(1000, chosen.max_steps // 2))
    many = corpus.hours >= 100
    on_gpu = machine.gpu is not None
    return {
        "path": path,
        "corpus": corpus.told(),
        "machine": machine.told(),
        "plan": f"{_plan(machine)} --clip-seconds {corpus.clip_seconds:.2g}",
        "output_dir": f"runs/{path.stem}",
        "base": _named(chosen.base),
        "encoder": _lines(_encoder(chosen)),
        "prompt": REPEAT if chosen.decoder else "",  # what a CTC head spells needs mending
        "layers": _lines(_layers(many)),
        "own_texts": OWN_TEXTS if chosen.decoder and corpus.hours < FEW_HOURS else "",
        "sources": _lines([_sources("train", corpus.sources or ["train.jsonl"])]),
        "validation": _lines([_validation(validation)]),
        "written": _lines(_written(chosen, corpus, data)),
        "batch_seconds": chosen.size.batch_seconds,
        "batch_reason": chosen.size.reason,
        "max_batch_clips": 128 if on_gpu else 32,
        "max_duration": chosen.max_duration,
        "longest": f"{corpus.too_long:,} longer clips are left out: cut them" if corpus.too_long else _longest(corpus),
        "num_workers": max(0, min(8, machine.cores - 1)) if on_gpu else 0,
        "augment": _lines(_augment(corpus)),
        "front_end_steps": chosen.front_end_steps,
        "front_end_reason": f"{_first_part(chosen)}{far}",
        "encoder_rates": _lines(_encoder_rates(chosen, corpus.hours)),
        "max_steps": chosen.max_steps,
        "max_reason": f"then the new layers learn to read its drafts{far}",
        "learning_rate": "1.5e-3" if "SmolLM2-135M" in chosen.base else "5e-4",  # searched for that one alone
        "warmup_steps": max(10, min(50, chosen.front_end_steps // 10)),
        "eval_steps": eval_steps,
        "dtype": chosen.dtype,
    }


def _encoder_rates(chosen: Choices, hours: float) -> list[str]:
    rate = f"encoder_learning_rate: {'2e-5' if chosen.decoder else '1e-4'}"
    if chosen.decoder and hours < FEW_HOURS:
        return ["ctc_rate: 0  # no CTC head: in so few hours it harms Whisper; so no word times", rate]
    return ["encoder_frozen_steps: 40  # while a new CTC head learns to read it", rate]


def _plan(machine: Machine) -> str:
    if machine.gpu is None:  # a core reached 0.1 TFLOP/s (docs/scaling.md)
        return f"--gpu cpu --tflops {0.1 * machine.cores:g}"
    name = machine.gpu.lower().replace(" ", "")
    known = next((gpu for gpu in GPUS if gpu in name), None)
    return f"--gpu {known}" if known else f"--gpu custom --tflops 100 --memory-gb {machine.gpu_memory:.0f}"


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines if line)


def _named(text: str) -> str:
    """As YAML reads it back, whatever is in it."""
    return yaml.safe_dump(text, width=10_000, allow_unicode=True).removesuffix("...\n").strip()


def _encoder(chosen: Choices) -> list[str]:
    lines = [f"name: {_named(chosen.encoder)}"]
    if chosen.decoder:
        return [
            *lines,
            "decoder: true                 # its own decoder writes the draft",
            f"language: {_named(chosen.whisper_language)}",
        ]
    return [f"{lines[0]}   # no Whisper: a CTC head spells the draft, which takes more hours"]


def _layers(many: bool) -> list[str]:
    if many:
        return ["num_layers: 0.25              # of the base's, as in the paper"]
    return [
        "num_layers: 6                 # of widths that 6.5 hours were enough for",
        "e_branchformer:",
        "  feed_forward_width: 512",
        "  cgmlp_width: 1152",
    ]


def _sources(name: str, sources: Sequence[str]) -> str:
    if len(sources) == 1:
        return f"{name}: {_named(sources[0])}"
    return "\n".join([f"{name}:", *(f"    - {_named(source)}" for source in sources)])


def _validation(validation: Optional[str]) -> str:
    if validation:
        return f"{_sources('validation', [validation])}   # watched"
    return "# validation: other.jsonl  # of speakers who are not in train; else nothing tells how new speech is heard"


def _written(chosen: Choices, corpus: Corpus, data: DataConfig) -> list[str]:
    """Language, transcripts and fields."""
    lines = [f"language: {_named(chosen.language)}               # by whose rules WER is counted"]
    if chosen.spoken:
        (style, *others) = sorted(set(corpus.styles))
        why = "sources differ" if others else f"as yours are, in {style}"
        lines.append(f"transcripts: spoken           # lower case, no punctuation: {why}")
    for name in ("audio_field", "text_field"):
        if (value := getattr(data, name)) != getattr(DataConfig, name):
            lines.append(f"{name}: {_named(value)}")
    if data.ignore_fields:
        lines.append(_sources("ignore_fields", data.ignore_fields))
    return lines + ([f"channel: {data.channel}"] if data.channel != "mix" else [])


def _longest(corpus: Corpus) -> str:
    return "no clip is longer" if corpus.clips else f"a Whisper hears {LONGEST:.0f} s at once"


def _augment(corpus: Corpus) -> list[str]:
    if corpus.hours > 1000:
        return ["speed: []                     # one pass: no clip is heard twice"]
    return ["speed: [0.9, 1.1]", "gain_db: [-6, 6]", "time_masks: 2", "freq_masks: 2"]


def _first_part(chosen: Choices) -> str:
    return f"the front end first, alone: it learns to {'write' if chosen.decoder else 'spell'} your transcripts"
