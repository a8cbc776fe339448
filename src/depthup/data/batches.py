"""From cuts to an endless, reproducible stream of training batches."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch.utils.data import IterableDataset, get_worker_info

from depthup.config import AugmentConfig, DataConfig
from depthup.data.audio import BadAudio
from depthup.data.augment import Augmenter
from depthup.data.balance import by_value
from depthup.data.bucketing import Bucketing
from depthup.data.mixing import Sources
from depthup.data.text_batches import TextBatches
from depthup.data.tokens import is_tokens, read_speech
from depthup.data.transcripts import prompt_and_answer
from depthup.errors import UserError

if TYPE_CHECKING:
    from depthup.model.processor import SpeechProcessor

log = logging.getLogger("depthup")

Batch = dict[str, torch.Tensor]
Planned = tuple[int, np.ndarray]
"""The epoch of a batch, and the numbers [clips] of its clips."""


class BatchStream(IterableDataset):
    """Batches for training, epoch after epoch without end, for `DataLoader(stream, batch_size=None)`.

    A batch holds the clips that `Bucketing` puts together. It is what `processor.training_batch` returns, plus
    `seconds`: seconds of audio in it. Every worker of every rank plans all batches, and reads the clips of its own.

    Batches are numbered k = 0, 1, ... over all epochs. Rank r takes those with k % world_size == r, and augments batch
    k with a generator seeded by (seed, k): order and contents depend neither on workers nor on resuming. A bad clip is
    skipped, counted and named in the log; a batch of only bad clips gives way to the clips of the next one.
    With `texts`, by the recipe's key, some batches are text instead, of the first that takes their number; where they
    take all, `cuts` may be None.

    Raises `UserError` where no clip lasts between `data.min_duration` and `data.max_duration`; iterating, where every
    clip of an epoch is bad, and with `data.strict` at the first bad clip.
    """

    def __init__(
        self,
        cuts: CutSet | None,
        processor: SpeechProcessor,
        data: DataConfig,
        augment: AugmentConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        texts: Mapping[str, TextBatches] | None = None,
    ) -> None:
        super().__init__()
        sources = Sources(()) if cuts is None else cuts.data
        assert isinstance(sources, Sources), "cuts must be what load_cuts gives"
        self.clips, weights = sources, data.weights
        if data.balance and cuts is not None:
            self.clips = by_value(self.clips, data.balance)
            weights = [1.0] * len(self.clips.parts)
        self.processor = processor
        # Slowed down, a clip must still be one that the encoder hears.
        heard = processor.longest_seconds * min([1.0, *augment.speed])
        self.data = data = replace(data, max_duration=min(data.max_duration, heard))
        self.augmenter = Augmenter(augment, processor.sampling_rate)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.texts = dict(texts or {})
        self.num_skipped = 0
        self.num_bad = 0
        if cuts is None:
            return
        # Here, so that the workers of this process share what it reads.
        self.bucketing = Bucketing(self.clips, data, weights)
        if rank == 0:
            for line in self.bucketing.left_out():
                log.warning("%s", line)

    def fingerprint(self) -> dict[str, str]:
        """Hashes of what the batches follow from beside the recipe, by the recipe's keys."""
        found = {"data.train": self.clips.fingerprint()}
        if self.augmenter.source is not None:
            found["augment.noise"] = self.augmenter.source.fingerprint()
        return found | {key: text.fingerprint() for key, text in self.texts.items()}

    def skip(self, num_batches: int) -> None:
        """Makes iteration start after this rank's first `num_batches`; they are only planned."""
        self.num_skipped = num_batches

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        plan = self._plan()
        ahead: deque[Planned] = deque()
        for number in count():
            step, rank = divmod(number, self.world_size)
            due = step - self.num_skipped
            # The DataLoader takes batches from its workers in turn.
            mine = rank == self.rank and due >= 0 and due % num_workers == worker
            if (text := next((text for text in self.texts.values() if text.takes(number)), None)) is not None:
                if mine:
                    yield text.batch(number)
                continue
            planned = ahead.popleft() if ahead else next(plan)
            if mine:
                yield self._load(number, planned, ahead, plan)

    def _plan(self) -> Iterator[Planned]:
        """Every batch of all ranks."""
        for epoch in count():
            for clips in self.bucketing.epoch(self.seed, epoch):
                yield epoch, clips

    def _load(
        self,
        number: int,
        planned: Planned,
        ahead: deque[Planned],
        plan: Iterator[Planned],
    ) -> Batch:
        """The batch of this number, from later clips where all of its own are bad."""
        first_epoch = planned[0]
        for epoch, numbers in _from(planned, ahead, plan):
            # By then a whole epoch has been tried.
            if epoch > first_epoch + 1:
                break
            clips = [clip for one in numbers if (clip := self._read(int(one))) is not None]
            if clips:
                return self._collate(number, clips)
        raise UserError("data: every clip of an epoch is bad; see the log for what is wrong with each")

    def _read(self, number: int) -> tuple[Cut, np.ndarray] | None:
        try:
            cut = self.clips.cut(number)
            return None if cut is None else (cut, read_speech(cut, self.processor))
        except BadAudio as error:
            if self.data.strict:
                raise
            self.num_bad += 1
            log.warning("skipped a bad clip (number %d): %s", self.num_bad, error)
            return None

    def _collate(self, number: int, clips: list[tuple[Cut, np.ndarray]]) -> Batch:
        rng = np.random.default_rng([self.seed, number])
        audio = [speech if is_tokens(speech) else self.augmenter.waveform(speech, rng) for _, speech in clips]
        prompts, texts = zip(*(prompt_and_answer(cut, self.data) for cut, _ in clips), strict=True)
        batch = self.processor.training_batch(
            audio, texts, feature_transform=lambda logmel: self.augmenter.features(logmel, rng), prompts=prompts
        )
        return {**batch, "seconds": torch.tensor(sum(map(self.processor.seconds, audio)))}


def _from(planned: Planned, ahead: deque[Planned], plan: Iterable[Planned]) -> Iterator[Planned]:
    """This batch and those after it, which stay in `ahead` for their own turn."""
    yield planned
    yield from list(ahead)
    for later in plan:
        ahead.append(later)
        yield later
