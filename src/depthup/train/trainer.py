"""The Hugging Face Trainer with Lhotse batches, a loss at labels only, validation WER and exact resume."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from depthup import files
from depthup.config import Recipe
from depthup.data import BatchStream, load_cuts
from depthup.data.replay import TextReplay, distillation
from depthup.data.simulated_drafts import SimulatedDrafts
from depthup.data.text_batches import TextBatches
from depthup.evaluate.asr import evaluate_asr
from depthup.evaluate.loss import validation_loss
from depthup.evaluate.spelling import evaluate_spelling
from depthup.model import checkpoint
from depthup.model.base import resolve_dtype
from depthup.model.cpu_kernels import fast_kernels
from depthup.model.processor import SpeechProcessor
from depthup.model.speech_lm import SpeechLM
from depthup.train import engine
from depthup.train.finite import FiniteSteps, telling
from depthup.train.own_texts import own_texts
from depthup.train.progress import ProgressLine
from depthup.train.record import Record
from depthup.train.run_directory import STATE, checkpoints, last_checkpoint, refuse_changed, step_of
from depthup.train.state import load_rest, load_rng, load_state, optimizer_tensors, rng_state, save_state
from depthup.train.threads import Threads

log = logging.getLogger("depthup")


class SpeechTrainer(Trainer):
    """Trains a `SpeechLM` as a recipe says. `train.front_end_steps` come before `train.max_steps`."""

    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(self, model: SpeechLM, processor: SpeechProcessor, recipe: Recipe) -> None:
        self.recipe = recipe
        self.audio_seconds = 0.0
        self.data_fingerprint: dict[str, str] = {}
        self.kept: dict[str, Any] = {}
        if recipe.train.gradient_checkpointing:
            model.recompute_activations(lambda: fast_kernels(self.args.device))
        # An evaluation set that is not None satisfies the Trainer; `evaluate` reads the recipe's.
        super().__init__(model=model, args=training_arguments(recipe), processing_class=processor, eval_dataset=[])
        engine.set_up(self.accelerator, model, recipe)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(ProgressLine(recipe.train.front_end_steps, lambda: self.audio_seconds))
        self.add_callback(Threads(recipe.train.front_end_steps, recipe.data.num_workers))
        self.record = Record()
        self.add_callback(self.record)
        self.finite = FiniteSteps(recipe.train.on_nan, recipe.output_dir, self.args.device)
        self.add_callback(self.finite)
        self.teacher: Optional[nn.Module] = None
        if recipe.replay.text and recipe.replay.loss == "distill":
            self.teacher = model.load_base().requires_grad_(False).to(self.args.device)
        # The loss averages over all labels of an optimizer step, which the Trainer counts for models that say so.
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> DataLoader:
        data = self.recipe.data
        stream = BatchStream(
            load_cuts(data.train, data) if self.recipe.needs_recordings else None,
            self.processing_class,
            data,
            self.recipe.augment,
            self.recipe.seed,
            rank=self.args.process_index,
            world_size=self.args.world_size,
            texts=self._texts(),
        )
        self.data_fingerprint = stream.fingerprint()
        if (last := last_checkpoint(Path(self.args.output_dir))) is not None:
            kept = self._kept_counts(last)
            refuse_changed(kept["data"], self.data_fingerprint, self.args.output_dir)
            stream.skip(kept["batches"] // self.args.world_size)
        workers = data.num_workers
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            generator=torch.Generator(),  # else each iterator draws from the generator that dropout uses
        )

    def _texts(self) -> dict[str, TextBatches]:
        """What takes the place of recordings in some batches, by the recipe's keys."""
        recipe, processor = self.recipe, self.processing_class
        found: dict[str, TextBatches] = {}
        first = recipe.train.front_end_steps * self._batches_per_step
        if recipe.replay.text:
            found["replay.text"] = TextReplay(recipe.replay, processor.tokenizer, recipe.seed, first)
        if recipe.simulated_drafts.on:
            own: list[str] = []
            if recipe.simulated_drafts.own_texts:
                with self.args.main_process_first(local=False, desc="own texts"):
                    own = own_texts(self.model, processor, recipe)
            drafts = SimulatedDrafts(recipe.simulated_drafts, recipe.data, processor, recipe.seed, first, own)
            found["simulated_drafts.text"] = drafts
        return found

    @property
    def _batches_per_step(self) -> int:
        """Of all ranks."""
        return self.args.gradient_accumulation_steps * self.args.world_size

    def create_optimizer(self, model: Optional[nn.Module] = None) -> torch.optim.Optimizer:
        """AdamW over what trains: LLM, Hugging Face encoder and the rest of the front end, each at its own rate."""
        if self.optimizer is None:
            groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((self._part(name), parameter.ndim > 1), []).append(parameter)
            settings = self.recipe.train
            rates = {
                "llm": settings.learning_rate,
                "encoder": settings.encoder_learning_rate,
                "front end": settings.speech_learning_rate,
            }
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": parameters,
                        "lr": rates[part],
                        "weight_decay": settings.weight_decay if is_matrix else 0.0,
                        "part": part,
                    }
                    for (part, is_matrix), parameters in groups.items()
                ],
                betas=(0.9, 0.98),
                fused=True,  # a fifth of the time, on CPUs too, and it can leave out a step without asking the device
            )
            if not engine.partitions():  # DeepSpeed leaves such a step out itself, before its norm is known here
                self.finite.watch(self.optimizer)
        return self.optimizer

    def _part(self, name: str) -> str:
        """Which of the three rates a parameter of this name learns at."""
        if name.startswith("llm."):
            return "llm"
        return "encoder" if name.startswith("encoder.") and self.recipe.encoder.name != "fbank" else "front end"

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optional[torch.optim.Optimizer] = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The recipe's schedule, once over `front_end_steps` and once over `max_steps`, each with its own warm-up."""
        if self.lr_scheduler is None:
            settings, optimizer = self.recipe.train, optimizer or self.optimizer
            alone, frozen = settings.front_end_steps, settings.encoder_frozen_steps

            def schedule(steps: int) -> Callable[[int], float]:
                warm, floor = min(settings.warmup_steps, steps), settings.min_lr_rate
                decay = get_scheduler(settings.lr_schedule, optimizer, warm, steps).lr_lambdas[0]
                return lambda step: decay(step) if step < warm else floor + (1 - floor) * decay(step)

            of_front_end, of_llm = schedule(alone), schedule(settings.max_steps)

            def usual(step: int) -> float:
                return of_llm(step - alone) if step >= alone else of_front_end(step)

            def of_encoder(step: int) -> float:
                # Its own warm-up begins where the head can read it.
                warmed = max(0, step - frozen) / max(1, settings.warmup_steps) if frozen else 1.0
                return min(1.0, warmed) * usual(step)

            factors = [of_encoder if group["part"] == "encoder" else usual for group in optimizer.param_groups]
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Optional[torch.Tensor] = None,
    ) -> Any:
        part = self._speech_loss if "input_features" in inputs else self._text_loss
        loss = telling(part(model, inputs, num_items_in_batch))
        return (loss, {}) if return_outputs else loss

    def _speech_loss(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Optional[torch.Tensor]
    ) -> torch.Tensor:
        """A sum over labels, divided by the labels of all ranks; times the ranks, since DDP averages over them."""
        settings = self.recipe.train
        front_end_only = self.state.global_step < settings.front_end_steps
        accumulation = self.args.gradient_accumulation_steps
        if not self.model.makes_out:
            del inputs["ctc_labels"], inputs["ctc_label_lengths"]
        outputs = model(
            **inputs,
            ctc_weight=settings.ctc_weight,
            front_end_only=front_end_only,
            num_items_in_batch=num_items_in_batch,
        )
        return outputs.loss / accumulation if front_end_only else self.args.world_size * outputs.loss

    def _text_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: Optional[torch.Tensor]
    ) -> torch.Tensor:
        """The same of a batch of text: the LM loss, or of a replayed one KL(base || adapted), in nats per token."""
        if self.teacher is None or "speech_ids" in inputs:
            return self.args.world_size * model(**inputs, num_items_in_batch=num_items_in_batch).loss
        labels = inputs.pop("labels")
        total = self.args.world_size * distillation(model, self.teacher, inputs)
        return total / (labels[:, 1:].numel() if num_items_in_batch is None else num_items_in_batch)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """The Trainer's; its loss, which is summed up for the log, is 0 where it is not finite."""
        # Here, before the batch moves to a GPU, which would have to be waited for.
        self.audio_seconds += float(inputs.pop("seconds")) * self.args.world_size
        with fast_kernels(self.args.device):
            return super().training_step(model, inputs, *args, **kwargs).nan_to_num(0.0, 0.0, 0.0)

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.finite.judge(norm)
        return norm

    def run(self, last: Optional[Path]) -> None:
        """Train to the recipe's last step, from a checkpoint or from the start, and write the record of the run."""
        if last and step_of(last) >= self.args.max_steps:  # the Trainer would make one step more
            self.state = TrainerState.load_from_json(str(last / STATE))
            self._load_counts(self._kept_counts(last))
        else:
            self.train(resume_from_checkpoint=str(last) if last else None)
        self._finish()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation loss and WER, logged as `eval_loss` and `eval_wer`; in `front_end_steps` the CTC head's."""
        metrics: dict[str, float] = {}
        if self.recipe.data.validation:
            if self.state.global_step > self.recipe.train.front_end_steps:
                metrics["eval_loss"] = self._validate(validation_loss)
                metrics["eval_wer"] = self._validate(evaluate_asr).wer
            else:
                spelled = self._validate(evaluate_spelling)
                metrics |= {"eval_ctc_cer": spelled.cer, "eval_ctc_wer": spelled.wer}
            self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _finish(self) -> None:
        """Measure the final validation loss where that was not done, and write the record of the run."""
        history, step = self.state.log_history, self.state.global_step
        if self.recipe.data.validation and not any("eval_loss" in h and h["step"] == step for h in history):
            self.log({"eval_loss": self._validate(validation_loss)})
        if self.is_world_process_zero():
            self._remove_old()  # where a kill kept the last checkpoint from doing so
            self.record.write(self.recipe, self.model, self.state, self.audio_seconds, self.finite.left_out)

    def _validate(self, measure: Callable[..., Any]) -> Any:
        model, data = self.accelerator.unwrap_model(self.model), self.recipe.data
        # Every process measures the same clips, since sharded weights are gathered by all of them together.
        found = measure(model, self.processing_class, data.validation, data, limit=self.recipe.train.eval_clips)
        engine.reshard(model)
        return found

    def log(self, logs: dict[str, float], start_time: Optional[float] = None) -> None:
        if "loss" in logs:
            logs = {**logs, "loss": self.finite.mean_of_others(logs["loss"], self.state.global_step)}
        super().log({**logs, "audio_hours": round(self.audio_seconds / 3600, 4)}, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Rank 0 writes it beside its place and moves it there whole; only then do older ones go."""
        model = self.accelerator.unwrap_model(self.model)
        weights = checkpoint.whole(checkpoint.trained_tensors(model))
        moments = optimizer_tensors(self.optimizer)
        rngs = gather_object([rng_state()])
        if self.args.should_save:
            self._write_checkpoint(model, weights, moments, rngs)
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(
        self,
        model: SpeechLM,
        weights: dict[str, torch.Tensor],
        moments: dict[str, torch.Tensor],
        rngs: list[dict[str, Any]],
    ) -> None:
        run, name = Path(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with files.written_whole(run / name) as partial:
            checkpoint.write(model, partial, weights, about=run)
            self.processing_class.save_pretrained(partial)
            save_state(partial, moments, self.optimizer, self.lr_scheduler, rngs, self._counts())
            self.state.save_to_json(str(partial / STATE))
        self._remove_old()

    def _remove_old(self) -> None:
        for old in checkpoints(Path(self.args.output_dir))[: -self.recipe.train.save_total_limit]:
            files.remove(old)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        # Under DeepSpeed the Trainer would look for a checkpoint of DeepSpeed's own.
        theirs = None if engine.partitions() else resume_from_checkpoint
        prepared = super()._prepare_for_training(max_steps, train_dataloader, theirs)
        if engine.partitions():
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        if self.recipe.replay.text:
            engine.reduce_unused(self.model)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Optional[nn.Module] = None) -> None:
        """Nothing: the weights were loaded before the engine could wrap or shard the model."""

    def _load_optimizer_and_scheduler(self, checkpoint: Optional[str]) -> None:
        if checkpoint is not None:
            load_state(Path(checkpoint), self.optimizer, self.lr_scheduler)
            self._load_counts(self._kept_counts(Path(checkpoint)))

    def _counts(self) -> dict[str, Any]:
        return {
            "audio_seconds": self.audio_seconds,
            "wall_seconds": self.record.wall_seconds,
            "batches": self.state.global_step * self._batches_per_step,
            "left_out": self.finite.left_out,
            "data": self.data_fingerprint,
        }

    def _kept_counts(self, checkpoint: Path) -> dict[str, Any]:
        """The counts that stand in a checkpoint; what an older version did not write begins anew, and that is said."""
        if not self.kept:
            begun = self._counts() | {"batches": step_of(checkpoint) * self._batches_per_step}
            kept = load_rest(checkpoint)
            if (lacks := sorted(begun.keys() - kept.keys())) and self.is_world_process_zero():
                log.warning(
                    f"{checkpoint}: an older version wrote it, without {', '.join(lacks)}; counted from here on, and "
                    "the data are taken to be what they were"
                )
            self.kept = {**begun, **kept}
        return self.kept

    def _load_counts(self, counts: dict[str, Any]) -> None:
        self.audio_seconds, self.record.earlier_seconds = counts["audio_seconds"], counts["wall_seconds"]
        self.finite.left_out = counts["left_out"]

    def _load_rng_state(self, checkpoint: Optional[str]) -> None:
        if checkpoint is not None:
            seed = self.recipe.seed + self.state.global_step
            load_rng(Path(checkpoint), self.args.process_index, self.args.world_size, seed)


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """The Trainer's arguments for a recipe."""
    settings = recipe.train
    steps = settings.front_end_steps + settings.max_steps
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(recipe.output_dir) / "tensorboard")  # the Trainer's only way
    return TrainingArguments(
        output_dir=recipe.output_dir,
        max_steps=steps,
        per_device_train_batch_size=1,  # a batch is what the sampler makes
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_schedule,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if settings.eval_steps else "no",
        eval_steps=settings.eval_steps or None,
        save_steps=settings.save_steps,
        report_to=settings.report_to,
        seed=recipe.seed,
        bf16=resolve_dtype(recipe.dtype) == torch.bfloat16 and not engine.partitions(),
        use_cpu=not torch.cuda.is_available(),
        # Some steps leave weights without gradients: those above the CTC head, or the speech front end for text.
        ddp_find_unused_parameters=bool(settings.front_end_steps or recipe.replay.text or recipe.simulated_drafts.on),
        # FSDP: gradients of every batch go to their shards, since whole ones would need the memory that sharding saves.
        accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": engine.shards()}},
        ignore_data_skip=True,  # the stream itself stands where it stood
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        remove_unused_columns=False,
    )
