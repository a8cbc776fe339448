"""How well a model hears (`score`, `evaluate_asr`) and what hearing cost its text (`text_report`)."""

import sys

from depthup.evaluate.asr import evaluate_asr
from depthup.evaluate.results import Evaluation
from depthup.evaluate.scores import AsrReport, score
from depthup.evaluate.text import TextReport, text_report
from depthup.rooms import Room

__all__ = [
    "AsrReport",
    "Evaluation",
    "TextReport",
    "evaluate_asr",
    "score",
    "text_report",
]

sys.modules[__name__].__class__ = Room
