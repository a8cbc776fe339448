"""What lets transformers load a checkpoint without an import of depthup before: `trust_remote_code=True`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CODE = Path(__file__).with_name("modeling_depthup.py")
"""The file that goes into every checkpoint; it imports depthup, or says what to install."""
AUTO_MAP = {
    "AutoConfig": f"{CODE.stem}.SpeechLMConfig",
    "AutoModelForCausalLM": f"{CODE.stem}.SpeechLM",
    "AutoModelForMultimodalLM": f"{CODE.stem}.SpeechLM",
    "AutoModelForSpeechSeq2Seq": f"{CODE.stem}.SpeechLM",
    "AutoProcessor": f"{CODE.stem}.SpeechProcessor",
}


def write_code(directory: Path) -> None:
    """Put the file into a checkpoint's directory."""
    (directory / CODE.name).write_text(CODE.read_text(encoding="utf-8"), encoding="utf-8")


class CodeFromPackage:
    """A class whose code stays in depthup: transformers would copy the module of what it loaded as remote code."""

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing to do."""
