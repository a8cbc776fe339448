"""Training: the Hugging Face Trainer with our batches, our loss and exact resume."""

import sys

from depthup.rooms import Room

sys.modules[__name__].__class__ = Room
