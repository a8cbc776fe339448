"""One thread that runs the model: rows of all requests are read and written together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from depthup.model.connectors import Speech
from depthup.model.cpu_kernels import fast_kernels
from depthup.serve.admission import choose
from depthup.serve.errors import crashed
from depthup.serve.metrics import Metrics
from depthup.serve.rows import Answer, Row, Work
from depthup.serve.settings import Settings
from depthup.transcribe.batches import inference
from depthup.transcribe.decoding import Answering, Decoding, can_draft
from depthup.transcribe.guard import Heard, heard_in
from depthup.transcribe.hearing import GUESSED_AT_ONCE

log = logging.getLogger("depthup")

ROWS = {"cpu": 16}
"""Answers written at a time by kind of device, 64 on others."""
PASS_SECONDS = {"cpu": 30.0}
"""Audio that is heard in one pass, 600 s on others: whoever is being answered waits for it."""
TOKENS_PER_SECOND = 12.5
"""Frames of speech a second in the LLM, about."""
ROW_TOKENS = 768
"""What the cache holds for each row, on average; more than prompt and answer of the longest piece of speech take."""


class Engine:
    """Continuous batching: rows join the batch after any pass, and leave it when their answer is through.

    Long prompts are read a few at a time between passes, so that nobody who is being answered waits long for others.
    """

    def __init__(self, model: Any, processor: Any, settings: Settings, metrics: Metrics) -> None:
        kind = model.device.type
        self.model, self.processor, self.metrics = model, processor, metrics
        self._rows = settings.rows or ROWS.get(kind, 64)
        self._pass_tokens = (settings.batch_seconds or PASS_SECONDS.get(kind, 600.0)) * TOKENS_PER_SECOND
        self._company = settings.batch_wait_ms / 1000
        self._at_once = GUESSED_AT_ONCE.get(kind)
        self._drafts = can_draft(model)
        self._waiting: list[Row] = []
        self._batches: list[Decoding] = []
        self._changed = threading.Condition()
        self._closing = False
        self._warm = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Returns once the model has run for the first time, which takes seconds, so that no request waits for it."""
        self._thread.start()
        self._warm.wait()

    def close(self) -> None:
        """Stop after the pass that runs; what is not through is given up."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def work(self, partial: bool = False) -> Work:
        """For one request, within its event loop; `partial` asks for every text so far."""
        return Work(self._put, partial)

    def _put(self, row: Row) -> None:
        with self._changed:
            self._waiting.append(row)
            self._changed.notify()

    def _run(self) -> None:
        with inference(self.model), fast_kernels(self.model.device):
            try:
                self._begin([Row(self.processor.prompt, [np.zeros(self.processor.sampling_rate, np.float32)], 1, 1.0)])
            finally:
                self._warm.set()
            while self._something_to_do():
                try:
                    self._read(self._admit())
                    for batch in list(self._batches):
                        self._write(batch)
                except Exception:  # a mistake of this class: its requests end, the server goes on
                    log.exception("the engine failed; everything that ran is given up")
                    self._give_up()
                self._count()

    def _something_to_do(self) -> bool:
        with self._changed:
            while not (self._closing or self._waiting or self._batches):
                self._changed.wait()
            if not self._batches and self._company and not self._closing:
                until = time.monotonic() + self._company
                while len(self._waiting) < self._rows and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
            return not self._closing

    def _admit(self) -> list[Row]:
        """Rows that are read next; they are taken from those that wait."""
        running = [row.tag for batch in self._batches for row in batch.rows]
        with self._changed:
            self._waiting = [row for row in self._waiting if not row.work.cancelled]
            longest = max((row.size + row.limit for row in running), default=0.0)
            room = self._rows - len(running)
            chosen = choose(self._waiting, room, self._pass_tokens)
            while chosen and not self._fits(len(running), longest, chosen):
                chosen.pop()
            for row in chosen:
                self._waiting.remove(row)
                row.work.running += 1
        return chosen

    def _fits(self, running: int, longest: float, chosen: Sequence[Row]) -> bool:
        """Whether the cache would hold them, padding included; a row alone always may."""
        together = running + len(chosen)
        tokens = max([longest, *(row.size + row.limit for row in chosen)]) * together
        return together == 1 or tokens <= self._rows * ROW_TOKENS

    def _read(self, rows: list[Row]) -> None:
        """Run the prompts of new rows, and let them join those that are being answered."""
        if not rows:
            return
        self.metrics.batch_rows.observe(len(rows))
        try:
            if rows[0].draft_only:
                return self._make_out(rows)
            batch = self._begin(rows)
        except Exception as error:
            self._failed(rows, error)
            return
        company = [] if rows[0].alone else [other for other in self._batches if not other.rows[0].tag.alone]
        if not (company and company[0].join(batch)):
            self._batches.append(batch)

    def _make_out(self, rows: list[Row]) -> None:
        """Answer rows that want no more than what the front end makes out."""
        speech = self.model(**self._inputs(rows), front_end_only=True)
        for row, heard, text in zip(rows, heard_in(speech), speech.made_out(), strict=True):
            row.heard = replace(heard, text=text.strip())
            row.work.running -= 1
            row.work.tell(Answer(row, row.heard.text, 0, through=True))

    def _inputs(self, rows: list[Row]) -> dict[str, Any]:
        device = str(self.model.device)
        audio = [piece for row in rows for piece in row.audio]
        special = rows[0].transcript  # a chat template writes what begins a text itself
        told = {"add_special_tokens": special, "language": [row.language for row in rows for _ in row.audio]}
        inputs = self.processor([row.prompt for row in rows], audio, device=device, **told)
        inputs = {name: value.to(device) for name, value in inputs.items()}
        return inputs | {"guess": rows[0].guess} if len(rows) == 1 and audio else inputs

    def _begin(self, rows: list[Row]) -> Decoding:
        inputs = self._inputs(rows)
        heard = "input_features" in inputs and self.model.makes_out

        def drafts(speech: Speech) -> list[list[int]]:
            told = iter(zip(heard_in(speech), speech.made_out(), strict=True))
            guesses = []
            for row in rows:
                pieces = [next(told) for _ in row.audio]
                text = ""
                if row.transcript:
                    row.heard, made_out = pieces[0]
                    text = made_out if self.model.reads_draft else _draft(row.guess, made_out)
                guesses.append(self.processor.answer_ids(text) if text and self._drafts else [])
            return guesses

        limits, starts = [row.limit for row in rows], self.processor.word_starts
        decoding = Decoding(self.model, inputs, limits, drafts if heard else None, starts, tags=rows)
        for row, mask in zip(rows, decoding.llm.mask, strict=True):
            row.prompt_tokens = int(mask.sum())
        return decoding

    def _write(self, batch: Decoding) -> None:
        """One more pass of a batch: who is through leaves it, and all hear how far they are."""
        try:
            left = batch.settle(lambda row: not row.tag.work.cancelled)
            for row in left:
                row.tag.work.running -= 1
            self.metrics.tokens.inc(len(batch.rows))
            for row in [*left, *batch.rows]:
                if row in left or row.tag.work.partial:
                    self._tell(row, through=row in left)
            if batch.rows:
                # On a CPU a pass costs as much as its tokens, and waits for the row with the worst guess.
                batch.step(self._at_once if len(batch.rows) == 1 or self._at_once is None else 0)
            else:
                self._batches.remove(batch)
        except Exception as error:
            self._batches.remove(batch)
            self._failed([row.tag for row in batch.rows], error)

    def _tell(self, row: Answering, through: bool) -> None:
        asked: Row = row.tag
        text = self.processor.tokenizer.decode(row.tokens, skip_special_tokens=True)
        if not through:
            text = text.rstrip("\ufffd")  # the part of a character that the last token ends in
        if asked.transcript:
            text = text.strip()
        if through and asked.transcript:
            asked.heard = asked.heard or Heard()
            asked.heard.text, asked.heard.scores = text, row.scores
        cut = through and len(row.tokens) >= asked.limit
        asked.work.tell(Answer(asked, text, len(row.tokens), through, cut))

    def _failed(self, rows: Sequence[Row], error: Exception) -> None:
        """A row that failed alone ends its request; those that failed together are tried again one by one."""
        log.error("a batch of %d failed", len(rows), exc_info=error)
        for row in rows:
            row.work.running -= 1
        if len(rows) == 1:
            rows[0].work.fail(crashed())
            return
        with self._changed:
            for row in rows:
                row.alone = True
                self._waiting.append(row)

    def _give_up(self) -> None:
        with self._changed:
            rows = [row.tag for batch in self._batches for row in batch.rows] + self._waiting
            self._waiting, self._batches = [], []
        for row in rows:
            row.work.fail(crashed())

    def _count(self) -> None:
        self.metrics.running.set(sum(len(batch.rows) for batch in self._batches))
        self.metrics.waiting.set(len(self._waiting))


def _draft(guess: str, made_out: str) -> str:
    """What was guessed, and what the front end makes out behind so many words."""
    words = guess.split()
    return " ".join([*words, *made_out.split()[len(words) :]])
