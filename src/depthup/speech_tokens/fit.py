"""Making a speech tokenizer: k-means over the frames of recordings, in memory that does not grow with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch

from depthup import files
from depthup.config import DataConfig
from depthup.data.audio import BadAudio, read_audio
from depthup.data.cuts import load_sources
from depthup.data.mixing import in_epoch
from depthup.errors import UserError
from depthup.model.encoders.kind import SAMPLING_RATE
from depthup.progress import ClipProgress
from depthup.speech_tokens.codec import Codec
from depthup.speech_tokens.config import SpeechTokenizerConfig
from depthup.speech_tokens.semantic import LayerFrames, nearest
from depthup.speech_tokens.tokenizer import SpeechTokenizer

log = logging.getLogger("depthup")

BUFFER_FRAMES = 1 << 17
"""Frames that are held and clustered together: 44 minutes at 50 a second, 540 MB of a 1024 wide encoder."""
BATCH_FRAMES = 10_000
"""Frames of a mini-batch; twice as many as clusters, where those are more."""
PASSES = 5
"""Over each buffer."""
MOST_CLUSTERS = (1 << 16) - 1
"""Ids are kept in 16 bits, and one means that there is none."""
SAME_RATE = 1e-3
"""Two streams are of the same frames where their rates differ by less than this share."""


def make_tokenizer(
    sources: Union[str, Sequence[str]],
    output: Union[str, Path],
    encoder: Optional[str] = None,
    layer: Optional[int] = None,
    clusters: int = 500,
    codec: Optional[str] = None,
    codec_streams: Optional[int] = None,
    hours: float = 100.0,
    seed: int = 0,
    data: Optional[DataConfig] = None,
) -> SpeechTokenizer:
    """Fit k-means on recordings, join a codec's streams to it, and write the tokenizer.

    Args:
        sources: what `load_cuts` reads; none for a tokenizer of a codec alone. Texts are not needed.
        output: a new directory.
        encoder, layer: Hugging Face audio encoder and its layer (1 is the lowest, None the encoder's output).
        codec, codec_streams: Hugging Face EnCodec, DAC or Mimi, and how many of its codebooks (None for all).
        hours: of recordings, at random, that are heard.

    Raises UserError, among others where the frames of encoder and codec do not come at the same rate.
    """
    directory, names = Path(output), [sources] if isinstance(sources, str) else list(sources)
    _check(directory, names, encoder, codec, layer, clusters, hours)
    acoustic = Codec(codec, codec_streams) if codec else None
    semantic = LayerFrames(encoder, layer) if encoder else None
    if semantic and acoustic and abs(acoustic.frame_rate / semantic.kind.frame_rate - 1) > SAME_RATE:
        raise UserError(
            f"codec {codec}: gives {acoustic.frame_rate:g} frames a second where {encoder} gives "
            f"{semantic.kind.frame_rate:g}; streams must share their frames, so choose another codec or encoder"
        )
    config, centroids = SpeechTokenizerConfig(), None
    if semantic:
        centroids, fit = fit_clusters(semantic, names, clusters, hours, seed, data or DataConfig())
        config.encoder, config.encoder_hash, config.layer = encoder, semantic.hash, layer
        config.num_clusters, config.fit, config.longest = clusters, fit, semantic.kind.longest
    if acoustic:
        config.codec, config.codec_hash, config.codec_streams = codec, acoustic.hash, acoustic.streams
    config.frame_rate = semantic.kind.frame_rate if semantic else acoustic.frame_rate  # type: ignore[union-attr]
    acoustic_sizes = [acoustic.codebook_size] * acoustic.streams if acoustic else []
    config.codebook_sizes = [clusters] * bool(semantic) + acoustic_sizes
    config.hash = config.fingerprint(centroids)
    tokenizer = SpeechTokenizer(config, centroids, where=str(directory))
    with files.disk_guard(directory), files.written_whole(directory) as partial:
        tokenizer.save_pretrained(partial)
    return tokenizer


def _check(
    directory: Path,
    sources: list[str],
    encoder: Optional[str],
    codec: Optional[str],
    layer: Optional[int],
    clusters: int,
    hours: float,
) -> None:
    if not encoder and not codec:
        raise UserError("tokenizer: give an audio encoder to cluster with --encoder, a codec with --codec, or both")
    if encoder and not sources:
        raise UserError("tokenizer: --encoder needs recordings to cluster; name a manifest, e.g. train.jsonl")
    if not encoder and (sources or layer):
        raise UserError("tokenizer: without --encoder nothing is clustered; leave recordings and --layer out")
    if not 2 <= clusters <= MOST_CLUSTERS or not hours > 0:
        raise UserError(f"tokenizer: --clusters must be from 2 to {MOST_CLUSTERS} and --hours positive")
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise UserError(f"{directory}: is not empty, and nothing is overwritten; choose another --output")


def fit_clusters(
    semantic: LayerFrames, sources: list[str], clusters: int, hours: float, seed: int, data: DataConfig
) -> tuple[np.ndarray, dict[str, Any]]:
    """Centroids [clusters, size], and what they were fitted on and how well. Raises UserError."""
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise UserError("tokenizer: clustering needs scikit-learn: pip install 'depthup[tokens]'") from error
    batch = max(BATCH_FRAMES, 2 * clusters)
    means = MiniBatchKMeans(clusters, random_state=seed, batch_size=batch)
    rng, frames, told = np.random.default_rng(seed), 0, {}
    for buffer in _buffers(semantic, sources, hours, seed, data):
        if len(buffer) < clusters and not frames:
            raise UserError(
                f"tokenizer: {len(buffer)} frames of audio for {clusters} clusters; give more recordings or fewer "
                "clusters"
            )
        frames += len(buffer)
        for _ in range(PASSES):
            rng.shuffle(buffer)
            for first in range(0, len(buffer), batch):
                if len(buffer) - first >= clusters or hasattr(means, "cluster_centers_"):
                    means.partial_fit(buffer[first : first + batch])
        told = _quality(buffer, means.cluster_centers_)
    return means.cluster_centers_.astype(np.float32), {
        "sources": sources,
        "hours": round(frames / semantic.kind.frame_rate / 3600, 4),
        "frames": frames,
        "seed": seed,
        **told,
    }


def _buffers(
    semantic: LayerFrames, sources: list[str], hours: float, seed: int, data: DataConfig
) -> Iterator[np.ndarray]:
    """Frames [BUFFER_FRAMES, size] of clips in random order, and what is left of them."""
    held: list[np.ndarray] = []
    count = 0
    for samples in _clips(sources, hours, seed, data):
        piece = semantic.kind.longest or len(samples)
        for first in range(0, len(samples), piece):
            held.append(semantic(samples[first : first + piece]).cpu().numpy())
            count += len(held[-1])
        if count >= BUFFER_FRAMES:
            yield np.concatenate(held)
            held, count = [], 0
    if held:
        yield np.concatenate(held)


def _clips(sources: list[str], hours: float, seed: int, data: DataConfig) -> Iterator[np.ndarray]:
    """Clips [samples] in random order, each once, until `hours` have been read."""
    cuts = load_sources(sources, data, "unchecked")
    left, rng = hours * 3600, np.random.default_rng(seed)
    with ClipProgress(cuts.num_clips()) as progress:
        for numbers in in_epoch(cuts, seed, 0):
            for number in rng.permutation(numbers):
                try:
                    cut = cuts.cut(int(number))
                    samples = None if cut is None else read_audio(cut, SAMPLING_RATE)
                except BadAudio as error:
                    if data.strict:
                        raise
                    log.warning("skipped: %s", error)
                    continue
                if samples is None:
                    continue
                yield samples
                progress.did(1, len(samples) / SAMPLING_RATE)
                left -= len(samples) / SAMPLING_RATE
                if left <= 0:
                    return


def _quality(frames: np.ndarray, centroids: np.ndarray) -> dict[str, float]:
    """How well frames [N, size] are told by their nearest centroid."""
    x, means = torch.from_numpy(frames), torch.from_numpy(centroids).float()
    near = torch.cat([nearest(part, means) for part in x.split(BATCH_FRAMES)])
    left = float((x - means[near]).square().sum())
    total = float((x - x.mean(0)).square().sum())
    return {"explained": round(1 - left / total, 4), "clusters_used": len(near.unique())}
