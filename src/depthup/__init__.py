"""depthup teaches a text LLM to hear, without making it forget how to read.

The commands as Python calls are in `depthup.api`, and here too: `from depthup import train`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from depthup.registration import install as _install

if TYPE_CHECKING:
    from depthup.api import evaluate as evaluate
    from depthup.api import train as train
    from depthup.api import transcribe as transcribe

__version__ = "0.2.0"

_PUBLIC = {
    "Recipe": "depthup.config",
    "UserError": "depthup.errors",
    "compare": "depthup.api",
    "upscale": "depthup.api",
    "SpeechLM": "depthup.model.speech_lm",
    "SpeechLMConfig": "depthup.model.speech_lm",
    "SpeechProcessor": "depthup.model.processor",
    "load": "depthup.api",
    "plan": "depthup.api",
    "load_recipe": "depthup.recipe",
}
_ROOMS = ("evaluate", "train", "transcribe")
"""Packages that are calls too."""
__all__ = [*_PUBLIC, *_ROOMS, "__version__"]


def __getattr__(name: str) -> Any:
    """Public names load what they need on first use, so that `import depthup` is instant."""
    if name in _ROOMS:
        return import_module(f"depthup.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'depthup' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


_install()
