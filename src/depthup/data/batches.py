"""From cuts to an endless, reproducible stream of training batches."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling.dynamic_bucketing import (
    DynamicBucketer,
    FixedBucketBatchSizeConstraint,
    estimate_duration_buckets,
)
from torch.utils.data import IterableDataset, get_worker_info

from depthup.config import AugmentConfig, DataConfig
from depthup.data.audio import BadAudio, read_audio
from depthup.data.augment import Augmenter
from depthup.data.mixing import in_epoch
from depthup.data.replay import TextReplay
from depthup.errors import UserError

if TYPE_CHECKING:
    from depthup.model.processor import SpeechProcessor

log = logging.getLogger("depthup")

# Clips whose durations decide the bounds of the buckets.
CLIPS_FOR_BUCKETS = 2000

Batch = dict[str, torch.Tensor]


class BatchStream(IterableDataset):
    """Batches for training, epoch after epoch without end, for `DataLoader(stream, batch_size=None)`.

    A batch holds clips of one duration bucket and, padding included, at most `data.batch_seconds` of audio (a longer
    clip comes alone). It is what `processor.training_batch` returns, plus `seconds`: seconds of audio in it.

    Batches are numbered k = 0, 1, ... over all epochs. Rank r takes those with k % world_size == r, and augments batch
    k with a generator seeded by (seed, k): order and contents depend neither on workers nor on resuming. A bad clip is
    skipped, counted and named in the log; a batch of only bad clips gives way to the clips of the next one.
    With `replay` some batches are text instead.

    Iterating raises `UserError` where no clip lasts between `data.min_duration` and `data.max_duration`, where every
    clip of an epoch is bad, and with `data.strict` at the first bad clip.
    """

    def __init__(
        self,
        cuts: CutSet,
        processor: SpeechProcessor,
        data: DataConfig,
        augment: AugmentConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        replay: TextReplay | None = None,
    ) -> None:
        super().__init__()
        self.cuts = cuts
        self.processor = processor
        self.data = data
        self.augmenter = Augmenter(augment, processor.sampling_rate)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.replay = replay
        self.num_skipped = 0
        self.num_bad = 0

    def skip(self, num_batches: int) -> None:
        """Makes iteration start after this rank's first `num_batches`; no audio is loaded for them."""
        self.num_skipped = num_batches

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        plan = self._plan(tell=worker == self.rank == 0)
        ahead: deque[tuple[int, list[Cut]]] = deque()
        for number in count():
            step, rank = divmod(number, self.world_size)
            due = step - self.num_skipped
            # The DataLoader takes batches from its workers in turn.
            mine = rank == self.rank and due >= 0 and due % num_workers == worker
            if self.replay is not None and self.replay.takes(number):
                if mine:
                    yield self.replay.batch(number)
                continue
            planned = ahead.popleft() if ahead else next(plan)
            if mine:
                yield self._load(number, planned, ahead, plan)

    def _plan(self, tell: bool) -> Iterator[tuple[int, list[Cut]]]:
        """The epoch and cuts of every batch of all ranks; touches no audio."""
        constraint = self._constraint()
        for epoch in count():
            # Not DynamicBucketingSampler: it chooses buckets by worker, or else stops before an epoch's last clips.
            bucketer = DynamicBucketer(
                self._fitting_cuts(epoch, tell and epoch == 0),
                duration_bins=constraint.max_seq_len_buckets[:-1],
                world_size=1,
                constraint=constraint,
                buffer_size=self.data.shuffle_buffer,
                shuffle=True,
                rng=random.Random(self.seed + epoch),
                bucket_rng=random.Random(self.seed + epoch),
            )
            empty = True
            for cuts in bucketer:
                empty = False
                yield epoch, list(cuts)
            if empty:
                raise UserError(
                    f"data: no clip lasts between data.min_duration ({self.data.min_duration} s) and data.max_duration "
                    f"({self.data.max_duration} s); widen them or check the durations in the manifest"
                )

    def _cuts(self, epoch: int) -> Iterable[Cut]:
        return in_epoch(self.cuts, self.seed, epoch, self.data.weights)

    def _fitting_cuts(self, epoch: int, tell: bool) -> Iterator[Cut]:
        others = 0
        for cut in self._cuts(epoch):
            if self._fits(cut):
                yield cut
            else:
                others += 1
        if tell and others:
            log.info("passed over %d clips outside data.min_duration and data.max_duration", others)

    def _fits(self, cut: Cut) -> bool:
        return self.data.min_duration <= cut.duration <= self.data.max_duration

    def _constraint(self) -> FixedBucketBatchSizeConstraint:
        """Upper bounds of the duration buckets, and how many clips of each fill a batch."""
        first = list(islice(filter(self._fits, self._cuts(0)), CLIPS_FOR_BUCKETS))
        bounds = [max((cut.duration for cut in first), default=self.data.max_duration), self.data.max_duration]
        if 1 < self.data.num_buckets <= len(first):
            bounds = estimate_duration_buckets(first, self.data.num_buckets) + bounds
        sizes = [int(min(self.data.max_batch_clips, max(1, self.data.batch_seconds // bound))) for bound in bounds]
        return FixedBucketBatchSizeConstraint(max_seq_len_buckets=bounds, batch_sizes=sizes)

    def _load(
        self,
        number: int,
        planned: tuple[int, list[Cut]],
        ahead: deque[tuple[int, list[Cut]]],
        plan: Iterator[tuple[int, list[Cut]]],
    ) -> Batch:
        """The batch of this number, from later clips where all of its own are bad."""
        first_epoch = planned[0]
        for epoch, cuts in _from(planned, ahead, plan):
            # By then a whole epoch has been tried.
            if epoch > first_epoch + 1:
                break
            clips = [(cut, samples) for cut in cuts if (samples := self._read(cut)) is not None]
            if clips:
                return self._collate(number, clips)
        raise UserError("data: every clip of an epoch is bad; see the log for what is wrong with each")

    def _read(self, cut: Cut) -> np.ndarray | None:
        try:
            return read_audio(cut, self.processor.sampling_rate)
        except BadAudio as error:
            if self.data.strict:
                raise
            self.num_bad += 1
            log.warning("skipped a bad clip (number %d): %s", self.num_bad, error)
            return None

    def _collate(self, number: int, clips: list[tuple[Cut, np.ndarray]]) -> Batch:
        rng = np.random.default_rng([self.seed, number])
        audio = [self.augmenter.waveform(samples, rng) for _, samples in clips]
        texts = [str(cut.supervisions[0].text) for cut, _ in clips]
        batch = self.processor.training_batch(
            audio, texts, feature_transform=lambda logmel: self.augmenter.features(logmel, rng)
        )
        seconds = sum(len(samples) for samples in audio) / self.processor.sampling_rate
        return {**batch, "seconds": torch.tensor(seconds)}


def _from(
    planned: tuple[int, list[Cut]], ahead: deque[tuple[int, list[Cut]]], plan: Iterable[tuple[int, list[Cut]]]
) -> Iterator[tuple[int, list[Cut]]]:
    """This batch and those after it, which stay in `ahead` for their own turn."""
    yield planned
    yield from list(ahead)
    for later in plan:
        ahead.append(later)
        yield later
