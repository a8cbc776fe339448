"""The commands as Python calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import torch
from accelerate import PartialState
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from depthup import files
from depthup.config import DataConfig, Recipe
from depthup.data.given import Given, is_given, name_given
from depthup.data.pace import paced, tokens_per_second
from depthup.data.replay import refuse_idle
from depthup.data.shards import make_shards as make_shards
from depthup.data.shards import verify_shards as verify_shards
from depthup.data.tokens import check_tokens
from depthup.data.waveform import URLS, waveform
from depthup.errors import UserError
from depthup.evaluate import Evaluation, evaluate_asr, text_report
from depthup.evaluate.asr import check_source
from depthup.evaluate.instructions import evaluate_instruction
from depthup.evaluate.text import read_text
from depthup.model import checkpoint
from depthup.model.configuration import ANSWER_AT_LEAST
from depthup.model.encoders import encoder_kind
from depthup.model.encoders.writer import TOKENS_AT_LEAST
from depthup.model.instruction import Instruction
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.model.summary import ModelSummary
from depthup.recipe import checked, load_recipe
from depthup.report.clips import file_name, write_clips
from depthup.report.compare import Comparison
from depthup.report.compare import compare as compare_runs
from depthup.report.write import write as write_comparison
from depthup.speech_tokens.fit import make_tokenizer as make_tokenizer
from depthup.speech_tokens.tokenizer import SpeechTokenizer
from depthup.transcribe.recordings import transcribe_files, transcribe_recordings

if TYPE_CHECKING:
    from depthup.planning.hardware import Device
    from depthup.planning.planner import TrainingPlan

log = logging.getLogger("depthup")


def load(
    path: Union[str, Path],
    device: Union[str, torch.device, None] = None,
    encoder: Optional[str] = None,
    codec: Optional[str] = None,
    **kwargs: Any,
) -> tuple[SpeechLM, SpeechProcessor]:
    """A checkpoint's model on `device`, or a GPU where there is one and no `device_map` is given, and its processor.

    Args:
        encoder: where the audio encoder stands now, if it has moved.
        codec: the same of the neural codec of discrete tokens.
        kwargs: go to `SpeechLM.from_pretrained`, e.g. `base="/where/the/base/is/now"`.

    Raises UserError.
    """
    chosen = _device(device)
    directory = checkpoint.find(path)
    model = SpeechLM.from_pretrained(directory, **{"device_map": chosen, "encoder": encoder, **kwargs})
    processor = SpeechProcessor.kept_in(directory)
    if isinstance(processor.feature_extractor, SpeechTokenizer):
        processor.feature_extractor.move(encoder, codec)
    elif codec:
        raise UserError(f"{directory}: hears without a neural codec; leave --codec out")
    return model, processor


def _device(name: Union[str, torch.device, None]) -> torch.device:
    """Raises UserError where there is no such device."""
    if name is None:
        return default_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise UserError(f"device {name}: cannot be used here ({str(error).splitlines()[0]})") from error
    return device


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def upscale(recipe: Recipe, output_dir: Union[str, Path, None] = None, dry_run: bool = False) -> ModelSummary:
    """Insert layers into a base and save the result, which computes what the base computes until it is trained.

    Args:
        recipe: of which `base`, `method`, `encoder`, `upscale`, `lora` and `prompt` matter.
        output_dir: a new directory for the checkpoint; not needed for a dry run.
        dry_run: say what the model would be made of only, without weights; a base's `config.json` is enough.

    Raises UserError, among others where `output_dir` holds something already.
    """
    recipe = checked(recipe)
    if dry_run:
        return summary(recipe)
    if output_dir is None:
        raise UserError("upscale: give a directory to save to, or --dry-run")
    directory = files.new_directory(output_dir)
    model = SpeechLM.from_recipe(recipe)
    checkpoint.save(model, directory, SpeechProcessor.build(model.config))
    return model.summary()


def summary(recipe: Recipe) -> ModelSummary:
    """What a recipe's model is made of, from configurations alone: no weights are read or made."""
    with torch.device("meta"):
        return SpeechLM.from_recipe(recipe, load_weights=False).summary()


def train(
    recipe: Union[Recipe, str, Path],
    overrides: Sequence[str] = (),
    *,
    train_dataset: Optional[Given] = None,
    eval_dataset: Optional[Given] = None,
) -> Path:
    """Adapt a base as a recipe says and return the directory of the trained checkpoint.

    Args:
        recipe: the recipe, or its file with `overrides` such as `--train.max_steps=100`.
        train_dataset: recordings instead of `data.train`: a Hugging Face dataset, or a list of dicts with `audio`, a
            path or `{"array", "sampling_rate"}`, `text`, and what a manifest has.
        eval_dataset: the same instead of `data.validation`.

    A run that stands in `output_dir` already is resumed where its last checkpoint left it, also by another number of
    processes (`torchrun`), which is exact when accumulated batches times processes stay the same.
    Raises UserError, among others where `output_dir` holds a run of another recipe.
    """
    from depthup.train.engine import check_engine
    from depthup.train.run_directory import claim

    recipe = checked(recipe) if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    if train_dataset is not None:
        recipe = replace(recipe, data=replace(recipe.data, train=name_given(train_dataset)))
    if eval_dataset is not None:
        recipe = replace(recipe, data=replace(recipe.data, validation=name_given(eval_dataset)))
    check_engine(recipe)
    check_tokens(recipe, encoder_kind(recipe.encoder))
    run = Path(recipe.output_dir)
    processes = PartialState(cpu=not torch.cuda.is_available())
    with ExitStack() as held:
        with processes.main_process_first():
            claim(run, recipe, processes.is_main_process, held)
        return _train(run, recipe)


def _train(run: Path, recipe: Recipe) -> Path:
    from depthup.train.run_directory import last_checkpoint
    from depthup.train.trainer import SpeechTrainer

    last = last_checkpoint(run)
    if (run / checkpoint.WEIGHTS).is_file():
        log.warning("%s: this run is complete; nothing to do", run)
        return run
    if recipe.data.validation:
        check_source(recipe.data.validation, recipe.data)  # rather than when hours have been trained
    transformers_logging.set_verbosity_error()
    set_seed(recipe.seed)
    model = SpeechLM.from_recipe(recipe)
    refuse_idle(recipe, model.keeps_text)
    processor = SpeechProcessor.build(model.config)
    _learn_pace(model, processor, recipe)
    if recipe.init_from:
        part = checkpoint.FRONT_END if recipe.init_part == "front_end" else ("",)
        checkpoint.load_trained(model, checkpoint.find(recipe.init_from), starts=True, part=part)
    if last:
        log.warning("%s: resuming from %s", run, last.name)
        checkpoint.load_trained(model, last)
    trainer = SpeechTrainer(model, processor, recipe)
    with files.disk_guard(run):
        trainer.run(last)
        weights = checkpoint.whole(checkpoint.trained_tensors(model))
        if trainer.is_world_process_zero():
            checkpoint.save(model, run, processor, weights)  # a run with weights is complete
    return run


def _learn_pace(model: SpeechLM, processor: SpeechProcessor, recipe: Recipe) -> None:
    """How many tokens a second of this training set holds, after which answers about recordings end."""
    if not recipe.data.train:  # of drafts that are simulated, which nobody spoke
        return
    config, writer, clips = model.config, model.encoder.kind.writer, paced(recipe.data)
    if not clips and (recipe.train.front_end_steps or recipe.train.ctc_weight):
        raise UserError(
            "train.front_end_steps, train.ctc_weight: no clip of data.train has a transcript to learn from, since each "
            "has a `prompt` of its own; set both to 0"
        )
    config.tokens_per_second = tokens_per_second(clips, processor.answer_ids, ANSWER_AT_LEAST)
    if writer is not None:
        config.written_per_second = tokens_per_second(clips, writer.tokens, TOKENS_AT_LEAST)


def transcribe(model: SpeechLM, processor: SpeechProcessor, audio: Any, **options: Any) -> Any:
    """What is said in one recording, as a `Transcript`, or in several, as a list of them in the order given.

    Args:
        audio: a recording as `depthup.data.waveform` reads it: a path or URL, samples [samples] at the processor's
            rate, a Hugging Face audio dict. Or a list of such, or a folder, whose recordings are several.
        options: fields of `depthup.transcribe.options.Options`.

    Raises UserError where a single recording cannot be read; of several, a file that cannot be read is told in its
    transcript's `error`. `depthup.transcribe.transcribe_files` gives each transcript as soon as it is ready.
    """
    recordings = list(audio) if isinstance(audio, (list, tuple)) else [audio]
    paths = [one for one in recordings if isinstance(one, (str, Path)) and not str(one).startswith(URLS)]
    several = isinstance(audio, (list, tuple)) or any(Path(path).is_dir() for path in paths)
    if len(paths) == len(recordings):
        found = list(transcribe_files(model, processor, paths, **options))
    else:
        samples = (waveform(one, processor.sampling_rate) for one in recordings)
        found = list(transcribe_recordings(model, processor, samples, **options))
    if several or len(found) > 1:  # `channel="each"` makes several of one file
        return found
    if found[0].error is not None:
        raise UserError(found[0].error)
    return found[0]


def evaluate(
    model: SpeechLM,
    processor: SpeechProcessor,
    asr: Union[str, Sequence[str], Given] = (),
    text: Union[str, Path, None] = None,
    tasks: Sequence[str] = (),
    *,
    text_data: Union[str, Path, None] = None,
    data: Optional[DataConfig] = None,
    by: Sequence[str] = (),
    limit: Optional[int] = None,
    instruction: Optional[Instruction] = None,
    output: Union[str, Path, None] = None,
    results: Optional[Evaluation] = None,
    on_result: Callable[[], object] = lambda: None,
) -> Evaluation:
    """WER on recordings, drift from the base on a text, and scores of model and base on lm-eval tasks.

    Args:
        asr: a source of recordings, or several, or recordings themselves as `train` takes them.
        text: a UTF-8 text file.
        tasks: names of lm-eval tasks.
        text_data: a folder of local files for them; without one they come from the hub.
        data: names of fields, and what to do with bad clips.
        by: manifest fields to group WER by, besides speaker and language.
        limit: most clips of each source, and most questions of each task.
        instruction: asked about the recordings of `asr` too, and compared with the base's answers to their transcripts.
        output: a directory for every clip of each source, the worst first, as JSONL and as a page.
        results: what is found is added to it as it comes, by default to a new one.
        on_result: called after each result, when `results` holds it.

    All inputs are looked at before anything is measured. Raises UserError.
    """
    results, data = results or Evaluation(), data or DataConfig()
    asr = name_given(asr) if is_given(asr) else asr
    sources: Any = [asr] if isinstance(asr, str) else asr
    _check_inputs(sources, text, tasks, text_data, data, by)
    if instruction is not None:
        instruction.written(processor.tokenizer, "")  # is there a place for the recording, and for its text?
    if output is not None:
        with files.made(Path(output)):
            pass
    for source in sources:
        audio = Path(output) / f"{file_name(source)}-audio" if output is not None else None
        results.asr[source] = evaluate_asr(model, processor, source, data, by=by, limit=limit, keep_audio=audio)
        on_result()
        if output is not None:
            write_clips(results.asr[source], source, Path(output))
    base = cache(lambda: model.load_base().to(model.device))
    if instruction is not None:
        for source in sources:
            answered = evaluate_instruction(model, base(), processor, source, instruction, data, limit)
            results.instructions[source, instruction.text] = answered
            on_result()
    if text is not None:
        results.drift[str(text)] = text_report(model, base(), processor.tokenizer, Path(text))
        on_result()
    if tasks:
        from depthup.evaluate.text_tasks import text_tasks

        text_tasks(model, processor.tokenizer, base, tasks, text_data, limit, scores=results.tasks, on_result=on_result)
    return results


def _check_inputs(
    sources: Sequence[str],
    text: Union[str, Path, None],
    tasks: Sequence[str],
    text_data: Union[str, Path, None],
    data: DataConfig,
    by: Sequence[str],
) -> None:
    for source in sources:
        check_source(source, data, by)
    if text is not None:
        read_text(Path(text))
    if tasks:
        from depthup.evaluate.text_tasks import load_tasks

        load_tasks(tasks, text_data)


def compare(runs: Sequence[Union[str, Path]], output: Union[str, Path, None] = None) -> Comparison:
    """Runs side by side; with `output` also compare.md, compare.json and compare.html there. Raises UserError."""
    comparison = compare_runs(runs)
    if output is not None:
        write_comparison(comparison, output)
    return comparison


def plan(recipe: Union[Recipe, str, Path], device: Device, **kwargs: Any) -> TrainingPlan:
    """What training will take: see `depthup.planning.planner.plan_training`."""
    from depthup.planning.planner import plan_training

    return plan_training(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), device, **kwargs)
