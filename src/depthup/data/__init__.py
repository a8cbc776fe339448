"""Lhotse cuts in, batches out."""

from depthup.data.audio import BadAudio, read_audio
from depthup.data.augment import Augmenter
from depthup.data.batches import BatchStream
from depthup.data.cuts import load_cuts

__all__ = ["Augmenter", "BadAudio", "BatchStream", "load_cuts", "read_audio"]
