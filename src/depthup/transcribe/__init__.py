"""Audio in, text out: files of any kind, long recordings, times, and formats that other tools read."""

import sys

from depthup.rooms import Room
from depthup.transcribe.formats import FORMATS as FORMATS
from depthup.transcribe.hearing import transcribe_batch as transcribe_batch
from depthup.transcribe.recordings import transcribe_files as transcribe_files
from depthup.transcribe.recordings import transcribe_recordings as transcribe_recordings
from depthup.transcribe.transcript import Segment as Segment
from depthup.transcribe.transcript import Transcript as Transcript
from depthup.transcribe.transcript import Word as Word

sys.modules[__name__].__class__ = Room
