"""The model card of a checkpoint: what it is made of, what it was trained on, what was measured, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional, Protocol

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from depthup import files
from depthup.model.encoders import BY_NAME
from depthup.model.hub import NAMES, hub_file, hub_name
from depthup.model.summary import ModelSummary

CARD, SCORES = "README.md", "evaluation.json"
LICENCES = dict.fromkeys((*NAMES, *NAMES.values()), "apache-2.0")
UNKNOWN = "not stated where it was loaded from"


class Carded(Protocol):
    """What of a `SpeechLM` a card says."""

    config: Any
    scope: Any

    @property
    def keeps_text(self) -> bool: ...

    def summary(self) -> ModelSummary: ...


def write_card(model: Carded, directory: Path, about: Path) -> None:
    """Write the card into `directory`, with what the run's directory `about` knows of data and scores."""
    (directory / CARD).write_text(card(model, about), encoding="utf-8")


@contextmanager
def kept_current(model: Carded, directory: Path) -> Iterator[None]:
    """Within it scores may be added to a directory; its card tells them afterwards, unless somebody has edited it."""
    file = directory / CARD
    ours = file.is_file() and file.read_text(encoding="utf-8") == card(model, directory)
    yield
    if ours:
        files.write_text(file, card(model, directory))


def card(model: Carded, about: Path) -> str:
    """The text of the card, which begins with what the hub reads: licence, base, and the `model-index` of scores."""
    config, scores = model.config, _told(about / SCORES)
    heard = {test: told for test, told in scores.get("asr", {}).items() if told["wer"] is not None}  # words were said
    base, encoder = config.base, (config.encoder or {}).get("name", "")
    licences = config.licences or licences_of(config)
    licence = licences["base"]
    hub_data = ModelCardData(
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=["depthup", "speech", "depth-up-scaling"],
        license=licence,
        base_model=hub_name(base),
        model_name=f"{Path(hub_name(base) or base).name}-speech",
        eval_results=_results(heard) or None,
    )
    parts = [
        f"---\n{hub_data.to_yaml()}\n---\n",
        f"# A speech LLM from {hub_name(base) or Path(base).name}",
        _made_of(model),
        *_data(config.trained_on or trained_on(about)),
        *_wer(heard),
        *_text(model, scores),
        _licences(licence, encoder, licences["encoder"]),
        _usage(config.standalone),
    ]
    return "\n\n".join(parts) + "\n"


def licences_of(config: Any, ask_hub: bool = False) -> dict[str, Optional[str]]:
    """The licences that the cards of `base` and `encoder` state; None where there is no card here, nor on the hub."""
    encoder = (config.encoder or {}).get("name", "")
    return {
        "base": _licence(config.base, config.base_source[0], ask_hub),
        "encoder": _licence(encoder, config.encoder_source, ask_hub),
    }


def _licence(name: str, source: str, ask_hub: bool) -> Optional[str]:
    if name in LICENCES:
        return LICENCES[name]
    if name in BY_NAME:  # of depthup's own there is no card
        return None
    file = Path(source) / CARD if Path(source).is_dir() else hub_file(source, CARD, ask_hub)
    if file is None or not file.is_file():
        return None
    return ModelCard.load(file, ignore_metadata_errors=True).data.get("license")


def _made_of(model: Carded) -> str:
    config, summary = model.config, model.summary()
    text = "stay bit-identical to the base's" if model.keeps_text else "are no longer the base's"
    return (
        f"Trained with [depthup](https://arxiv.org/abs/2604.00489), method `{config.method}`, scope `{model.scope}`: "
        f"{summary.trainable:,} trained parameters, {summary.share_of_full:.1%} of full fine-tuning's, of "
        f"{summary.total:,}. Logits of input without speech {text}."
    )


def trained_on(about: Path) -> Optional[dict[str, Any]]:
    """What a run's directory says of its data, under names that mean something elsewhere; None without a recipe."""
    file, training = about / "recipe.yaml", _told(about / "training.json")
    if not file.is_file():
        return None
    data = yaml.safe_load(file.read_text(encoding="utf-8"))["data"]
    train = [data["train"]] if isinstance(data["train"], str) else data["train"]
    return {
        "train": [_short(source) for source in train],
        "validation": _short(data["validation"]) if data["validation"] else None,
        "audio_hours": training.get("audio_hours"),
        "steps": training["steps"] + training["ctc_steps"] if training else None,
    }


def _data(told: Optional[dict[str, Any]]) -> list[str]:
    if told is None:
        return []
    lines = [f"- trained on {', '.join(f'`{source}`' for source in told['train'])}"]
    if told["validation"]:
        lines.append(f"- watched on `{told['validation']}`")
    if told["audio_hours"] is not None:
        hours, steps = told["audio_hours"], told["steps"]
        lines.append(f"- {hours:.1f} hours of audio heard in {steps:,} steps, repetitions counted")
    return ["## Data\n\n" + "\n".join(lines)]


def _wer(heard: dict[str, Any]) -> list[str]:
    if not heard:
        return ["## Word error rate\n\nNot measured."]
    rows = [
        f"| `{name}` | {told['wer']:.1%} | {_interval(told)} | {told['cer']:.1%} | {told['counts']['clips']:,} |"
        for name, told in heard.items()
    ]
    head = "| test set | WER | 95 % interval | CER | clips |\n|---|---:|---:|---:|---:|"
    return ["## Word error rate\n\nWith Whisper's normaliser.\n\n" + "\n".join([head, *rows])]


def _interval(told: dict[str, Any]) -> str:
    interval = told.get("interval")
    return f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else "too few clips"


def _text(model: Carded, scores: dict[str, Any]) -> list[str]:
    drift, tasks = scores.get("drift", {}), scores.get("tasks", {})
    rows = [
        f"| perplexity, `{name}` | {told['perplexity_base']:.3f} | {told['perplexity']:.3f} |"
        for name, told in drift.items()
    ]
    rows += [
        f"| {name}, {told['metric']} | {100 * told['base']:.1f} | {100 * told['score']:.1f} |"
        for name, told in tasks.items()
    ]
    if not rows:
        return []
    return ["## Text, before and after\n\n" + "\n".join(["| | base | this model |\n|---|---:|---:|", *rows])]


def _licences(base: Optional[str], encoder_name: str, encoder: Optional[str]) -> str:
    lines = [f"- base: {base or UNKNOWN}"]
    if encoder_name not in BY_NAME:
        lines.append(f"- speech encoder {hub_name(encoder_name) or Path(encoder_name).name}: {encoder or UNKNOWN}")
    return "## Licences\n\n" + "\n".join(lines)


def _usage(standalone: bool) -> str:
    held = (
        "Base and speech encoder are inside."
        if standalone
        else "It holds what was trained; the base is fetched, and known again by a hash of its weights."
    )
    return (
        f"## Use\n\n{held}\n\n```python\n"
        'import depthup\n\nmodel, processor = depthup.load("PATH")\n'
        'print(depthup.transcribe(model, processor, "speech.wav").text)\n```\n\n'
        "or with transformers, where depthup is installed:\n\n```python\n"
        "from transformers import pipeline\n\n"
        'asr = pipeline("automatic-speech-recognition", model="PATH", trust_remote_code=True)\n'
        'print(asr("speech.wav")["text"])\n```'
    )


def _results(heard: dict[str, Any]) -> list[EvalResult]:
    """The test sets as the hub's `model-index` has them."""
    return [
        EvalResult(
            task_type="automatic-speech-recognition",
            task_name="Speech recognition",
            dataset_type=name.replace("/", "-"),
            dataset_name=name,
            metric_type=metric,
            metric_name=metric.upper(),
            metric_value=round(100 * told[metric], 2),
        )
        for name, told in heard.items()
        for metric in ("wer", "cer")
    ]


def _short(source: str) -> str:
    """`speechocean/train` for a manifest's path; names of datasets stay."""
    path = Path(source)
    return f"{path.parent.name}/{path.name.split('.')[0]}" if path.suffix or path.is_absolute() else source


def _told(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
