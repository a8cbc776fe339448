"""All methods on one recipe, each at a learning rate of its own, then measured and compared."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from depthup import files
from depthup.config import Recipe
from depthup.errors import UserError
from depthup.evaluate.results import load_results
from depthup.model.checkpoint import WEIGHTS
from depthup.model.layers import KINDS
from depthup.recipe import load_recipe
from depthup.train.finite import DIVERGED
from depthup.train.record import NAME as RECORD

REPLAY = "+replay"
METHODS: dict[str, tuple[str, ...]] = {
    "full": ("--method=full",),
    f"full{REPLAY}": ("--method=full",),
    "lora": ("--method=lora",),
    f"lora{REPLAY}": ("--method=lora",),
    "lora-matched": ("--method=lora", "--lora.rank=matched"),
    "lora-speech-only": ("--method=lora", "--lora.speech_only=true"),
    **{
        f"{layer}-{scope}": ("--method=depth_upscale", f"--upscale.layer={layer}", f"--upscale.scope={scope}")
        for layer in KINDS
        for scope in ("all", "from_speech", "speech")
    },
    "e_branchformer-speech+lora": (
        "--method=depth_upscale+lora",
        "--upscale.layer=e_branchformer",
        "--upscale.scope=speech",
    ),
}
"""The paper's methods and what people do instead, as changes to a recipe. Those with replay need `replay.text`."""

MOST_EXTENSIONS = 2

Say = Callable[[str], None]


@dataclass
class Sweep:
    """Trains each method on a recipe in processes of their own, so that one's memory and failure are its own.

    Every method gets the same search: a run of `search_steps` at each of `rates`, and while the best lies at an end, up
    to twice, one more beyond it; the rate with the lowest validation loss trains for the recipe's own steps. A single
    rate is taken as it is.
    """

    recipe: str
    overrides: Sequence[str]
    output_dir: Path
    rates: Sequence[float] = (1e-4, 3e-4, 1e-3)
    search_steps: int = 50
    methods: Sequence[str] = ()
    """Names in `METHODS`; none means all that the recipe allows."""
    measure: Sequence[str] = ()
    """Arguments of `depthup evaluate` after the checkpoint."""
    jobs: int = 1
    """Methods at a time; step times are then those of a shared machine."""
    say: Say = print
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise UserError(f"sweep: no method {name}; there are {', '.join(METHODS)}")
        recipe = self._loaded
        replayed = [name for name in self.methods if name.endswith(REPLAY)]
        if replayed and not recipe.replay.text:
            raise UserError(f"sweep: {replayed[0]} needs text to replay; set replay.text in the recipe")
        if not recipe.data.validation:
            raise UserError(f"{self.recipe}: data.validation is needed to choose learning rates")
        if not self.methods:
            self.methods = [name for name in METHODS if recipe.replay.text or not name.endswith(REPLAY)]

    @cached_property
    def _loaded(self) -> Recipe:
        return load_recipe(self.recipe, self.overrides)

    def run(self) -> list[Path]:
        """Search, train and measure every method; what is done already is not done again. Returns the runs that stand.

        A method that fails is named in `failed` and in its log, and the others go on.
        """
        with files.disk_guard(self.output_dir):
            (self.output_dir / "logs").mkdir(parents=True, exist_ok=True)
            (self.output_dir / "search").mkdir(exist_ok=True)
            with ThreadPoolExecutor(self.jobs) as pool:
                list(pool.map(self._guarded, self.methods))
        return [self.output_dir / name for name in self.methods if _is_trained(self.output_dir / name)]

    def _guarded(self, name: str) -> None:
        try:
            self._one(name)
        except UserError as error:
            self.failed[name] = str(error)
            self.say(f"{name}: {error}")

    def _one(self, name: str) -> None:
        rate = self._search(name)
        run = self.output_dir / name
        if not _is_trained(run):
            self.say(f"{name}: training at {rate:g}")
        self._train(name, rate, run)
        measured = run / "measured.json"
        if self.measure and not (measured.is_file() and json.loads(measured.read_text()) == list(self.measure)):
            self.say(f"{name}: measuring")
            self._depthup(name, ["evaluate", str(run), *self.measure])
            files.write_json(measured, list(self.measure))
        self.say(f"{name}: done{_summary(run)}")

    def _search(self, name: str) -> float:
        if len(self.rates) == 1:
            return self.rates[0]
        losses = {rate: self._probe(name, rate) for rate in self.rates}
        rates = sorted(self.rates)
        ratio = rates[1] / rates[0]
        for _ in range(MOST_EXTENSIONS):
            best = min(losses, key=lambda rate: losses[rate])
            beyond = {min(losses): best / ratio, max(losses): best * ratio}.get(best)
            if beyond is None:
                break
            losses[beyond] = self._probe(name, beyond)
        best = min(losses, key=lambda rate: losses[rate])
        if math.isinf(losses[best]):
            raise UserError(f"diverges at every learning rate from {min(losses):g} to {max(losses):g}")
        return best

    def _probe(self, name: str, rate: float) -> float:
        """Validation loss after a short run at a learning rate; infinite when it diverges."""
        kept = self.output_dir / "search" / f"{name}@{rate:.3g}.json"
        if not kept.is_file():
            scratch = kept.with_suffix("")
            short = [f"--train.max_steps={self.search_steps}", "--train.eval_steps=0", "--train.save_steps=1000000"]
            try:
                self._train(name, rate, scratch, *short)
            except UserError as error:
                if DIVERGED not in str(error):
                    raise
                files.write_json(kept, {"history": [{"eval_loss": math.inf}]})
            else:
                os.replace(scratch / RECORD, kept)
            shutil.rmtree(scratch, ignore_errors=True)
        loss = json.loads(kept.read_text())["history"][-1]["eval_loss"]
        self.say(f"{name}: learning rate {rate:.3g} gives validation loss {loss:.3f} after {self.search_steps} steps")
        return loss

    def _train(self, name: str, rate: float, run: Path, *changes: str) -> None:
        if _is_trained(run):
            return
        replay = [] if name.endswith(REPLAY) else ["--replay.text=[]"]
        rates = [f"--train.learning_rate={rate!r}", "--train.save_total_limit=1"]
        words = [*self.overrides, *METHODS[name], *replay, *rates, *changes, f"--output_dir={run}"]
        self._depthup(name, ["train", self.recipe, *words])

    def _depthup(self, name: str, words: list[str]) -> None:
        """Run a command with its output in the method's log; UserError with its last line when it fails."""
        log = self.output_dir / "logs" / f"{name}.log"
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        with log.open("ab") as output:
            output.write(f"$ depthup {' '.join(words)}\n".encode())
            output.flush()
            command = [sys.executable, "-m", "depthup.cli", *words]
            status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
        if status.returncode:
            last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
            raise UserError(f"`depthup {words[0]}` failed, see {log}: {last.removeprefix('depthup: ')}")


def _is_trained(run: Path) -> bool:
    """The record of a run is written before its weights."""
    return (run / WEIGHTS).is_file()


def _summary(run: Path) -> str:
    heard = {name: told for name, told in load_results(run).get("asr", {}).items() if told["wer"] is not None}
    return "".join(f", {name} WER {100 * found['wer']:.1f} %" for name, found in heard.items())
