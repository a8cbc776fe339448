"""Text ability on lm-eval's benchmarks, of an adapted model beside its base."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import logging
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Optional

import torch

from depthup import __version__, files
from depthup.errors import UserError
from depthup.model.checkpoint import trained_tensors
from depthup.transcribe.batches import inference

CACHE = files.CACHE / "text_tasks"
"""Scores, one file per model, task and set of questions."""
LOCAL_TASKS = Path(__file__).with_name("tasks")
METRIC = "acc"
SUITES = {
    "paper": ("arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa", "piqa", "winogrande", "mmlu"),
}
"""Tasks that go by one name: `paper` are those of arXiv 2604.00489, table 1."""
CHECKED = 8
"""Requests per task on which logits are compared with the base's."""

log = logging.getLogger("depthup")


@dataclass
class Accuracy:
    """Share of questions answered right, its standard error, and what guessing would give, all fractions."""

    score: float
    stderr: float
    chance: float
    right: list[int]
    """1 for each question that was answered right, else 0."""

    @property
    def questions(self) -> int:
        return len(self.right)

    @classmethod
    def over(cls, parts: Sequence[Accuracy]) -> Accuracy:
        """Of all questions of several tasks together."""
        if len(parts) == 1:
            return parts[0]
        total = sum(part.questions for part in parts)
        score, chance = (
            sum(getattr(part, name) * part.questions for part in parts) / total for name in ("score", "chance")
        )
        stderr = math.sqrt(score * (1 - score) / (total - 1)) if total > 1 else 0.0
        return cls(score, stderr, chance, [one for part in parts for one in part.right])

    def stderr_beside(self, base: Accuracy) -> float:
        """Standard error of what lies between two models that were asked the same questions, which are paired."""
        apart = [own - theirs for own, theirs in zip(self.right, base.right, strict=True)]
        return statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0


@dataclass
class TaskScore:
    """Accuracy of the adapted model and of its `base` on one task, as fractions.

    `identical`: the model's text logits are the base's bit for bit, so `score` is the base's, not computed again.
    """

    metric: str
    score: float
    stderr: float
    base: float
    chance: float
    questions: int
    identical: bool
    lost_stderr: Optional[float] = None
    """Of `base - score`, question by question; None for what was kept before it was reckoned."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def text_tasks(
    model: Any,
    tokenizer: Any,
    base_factory: Callable[[], Any],
    tasks: Sequence[str],
    data_dir: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    scores: dict[str, TaskScore] | None = None,
    on_result: Callable[[], object] = lambda: None,
) -> dict[str, TaskScore]:
    """Score an adapted model and its base on lm-eval tasks.

    Every task is scored by lm-eval's `acc`: the likeliest choice as it stands, not divided by its length (`acc_norm`,
    which others report for ARC and OpenBookQA). Chance is 1 / choices, averaged over questions, and 0 for LAMBADA.
    A model that keeps its base's text behaviour by construction is not scored: logits are compared on some of
    the task's own questions, and the base's score holds. Scores are kept by weights, questions and arithmetic: what was
    scored before, of the base or of the same model, is not scored again, which the log says.

    Args:
        model: a SpeechLM; it is evaluated as a whole, as text-only input meets it.
        tokenizer: the base's.
        base_factory: gives the base, e.g. `model.load_base`; called at most once, and only when it is needed.
        tasks: names as lm-eval knows them, such as `piqa`, or `paper` for those of the paper. A group whose score is
            that of all its questions together, such as `mmlu`, is one task; any other stands for its tasks.
        data_dir: folder with a JSONL file per task, and own lm-eval definitions as YAML; no network is used. Without
            it data sets come from the hub.
        limit: most questions per task, the first ones; of a group as many from each of its parts, at least one.
        batch_size: requests per forward pass.
        scores: what is found is added to them as it comes, by default to a new dictionary.
        on_result: called after each task, when `scores` holds it.

    Raises UserError for an unknown task, missing or bad data, a task that has no `acc`, and without lm-eval;
    RuntimeError where logits differ that must not.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1 question")
    scores = {} if scores is None else scores
    base = cache(lambda: base_factory().to(model.device))
    trained = _trained(model)
    with inference(model):
        for name, parts in load_tasks(tasks, data_dir).items():
            each = None if limit is None else max(1, limit // len(parts))
            pairs = [_scores(model, base, tokenizer, task, each, batch_size, trained) for task in parts]
            own, expected = (Accuracy.over(of) for of in zip(*pairs, strict=True))
            scores[name] = TaskScore(
                METRIC,
                own.score,
                own.stderr,
                expected.score,
                own.chance,
                own.questions,
                model.keeps_text,
                own.stderr_beside(expected),
            )
            on_result()
    return scores


def _scores(
    model: Any,
    base: Callable[[], Any],
    tokenizer: Any,
    task: Any,
    limit: int | None,
    batch_size: int,
    trained: str,
) -> tuple[Accuracy, Accuracy]:
    """The adapted model's score and the base's; a model that keeps text by construction has the base's."""

    def kept_or(whose: Sequence[str], scored: Callable[[], Any]) -> Accuracy:
        file = CACHE / f"{_key(model, tokenizer, task, whose)}.json"
        if file.is_file():
            if whose:
                log.warning("%s: this model was scored on it before; kept in %s", task.task_name, file)
            return Accuracy(**json.loads(file.read_text()))
        score = accuracy(scored(), tokenizer, task, limit, batch_size)
        _keep(file, score)
        return score

    with _calm():
        task.build_all_requests(limit=limit)
    if model.keeps_text:
        _check_identity(model, base(), tokenizer, task)
    expected = kept_or((), base)
    return expected if model.keeps_text else kept_or((__version__, trained), lambda: model), expected


def _trained(model: Any) -> str:
    """Tells one adapted model on a base from any other, to the bit."""
    config = model.config
    digest = hashlib.sha256(json.dumps([config.method, config.upscale, config.lora], default=str).encode())
    for name, tensor in sorted(trained_tensors(model).items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_tasks(names: Sequence[str], data_dir: str | Path | None = None) -> dict[str, list[Any]]:
    """lm-eval's tasks by name, with their data: several where the score is of all their questions together.

    See `text_tasks`.
    """
    if not find_spec("lm_eval"):
        raise UserError("text tasks need lm-eval: pip install 'depthup[tasks]'")
    from lm_eval.tasks import TaskManager

    names = list(dict.fromkeys(one for name in names for one in SUITES.get(name, (name,))))
    if data_dir is None:
        manager = TaskManager()
    elif Path(data_dir).is_dir():
        folders: list[str | Path] = [LOCAL_TASKS, Path(data_dir)]
        manager = TaskManager(include_path=folders, include_defaults=False, metadata={"folder": str(data_dir)})
    else:
        raise UserError(f"{data_dir}: no such folder; give one with a JSONL file per text task")
    for name in names:
        if name not in manager.all_tasks:
            close = difflib.get_close_matches(name, [*SUITES, *manager.all_tasks], 1, 0.4) or manager.all_tasks[:1]
            raise UserError(f"text task {name}: not known; did you mean {close[0]}?")
    try:
        with _calm():
            found = {name: manager.load([name]) for name in names}
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"text tasks {', '.join(names)}: cannot get the data ({reason}); without a network give --text-data FOLDER"
        ) from error
    loaded: dict[str, list[Any]] = {}
    for name, part in found.items():
        together = name in part["groups"] and _counts_questions(part["groups"][name])
        loaded |= (
            {name: list(part["tasks"].values())} if together else {one: [task] for one, task in part["tasks"].items()}
        )
    for task in (task for parts in loaded.values() for task in parts):
        if METRIC not in task.aggregation():
            raise UserError(
                f"text task {task.task_name}: has no {METRIC}, only {', '.join(task.aggregation())}; leave it out"
            )
        task.set_fewshot_seed(0)
    return loaded


def _counts_questions(group: Any) -> bool:
    """Whether a group's accuracy is that of all its questions together."""
    return any(one.metric == METRIC and one.weight_by_size for one in group.aggregate_metric_list or ())


def accuracy(model: Any, tokenizer: Any, task: Any, limit: int | None = None, batch_size: int = 8) -> Accuracy:
    """What lm-eval finds for one model on one task."""
    from lm_eval.api.metrics import mean, mean_stderr
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    with _calm():
        lm = HFLM(model, backend="causal", tokenizer=tokenizer, batch_size=batch_size, max_length=longest)
        # Its simple_evaluate would also reseed all generators, and ask git, pip and the hub about this machine.
        results = evaluate(lm, {"tasks": {task.task_name: task}}, limit=limit, bootstrap_iters=0)
    samples = results["samples"][task.task_name]
    right = [int(sample[METRIC]) for sample in samples]
    by_choice = task.OUTPUT_TYPE == "multiple_choice"
    chance = mean([1 / len(task.doc_to_choice(sample["doc"])) for sample in samples]) if by_choice else 0.0
    return Accuracy(mean(right), mean_stderr(right) if len(right) > 1 else 0.0, chance, right)


def _check_identity(model: Any, base: Any, tokenizer: Any, task: Any) -> None:
    """Logits of some of the task's requests, spread over all, must be the base's, bit for bit."""
    for request in task.instances[:: max(1, len(task.instances) // CHECKED)][:CHECKED]:
        ids = torch.tensor([_ids(tokenizer, request)], device=model.device)
        if not torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits):
            raise RuntimeError(
                f"{task.task_name}: logits differ from the base's on text alone, which method {model.config.method} "
                f"with scope {model.scope} must not change; this is a bug in depthup or in a frozen weight's handling"
            )


def _key(model: Any, tokenizer: Any, task: Any, whose: Sequence[str]) -> str:
    """Tells one score from any other: by weights and arithmetic, and by the questions as they are read.

    `whose` is empty for the base's.
    """
    import lm_eval

    config = model.config
    arithmetic = [config.base_hash, config.base_quantization, str(model.llm.dtype), model.device.type, *whose]
    asked = [(request.doc, request.args, _ids(tokenizer, request)) for request in task.instances]
    kept = [field.name for field in fields(Accuracy)]
    what = json.dumps([arithmetic, lm_eval.__version__, task.task_name, kept, asked], default=str)
    return hashlib.sha256(what.encode()).hexdigest()[:32]


def _ids(tokenizer: Any, request: Any) -> list[int]:
    return tokenizer("".join(part for part in request.args if isinstance(part, str)))["input_ids"]


def _keep(file: Path, found: Accuracy) -> None:
    """A cache that cannot be written to is named in the log."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(file, asdict(found))
    except OSError as error:
        log.warning("%s: scores are not kept there (%s)", file.parent, error.strerror)


@contextmanager
def _calm() -> Iterator[None]:
    """lm-eval without its chatter: nothing below errors in the log, and progress bars on a terminal only."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
