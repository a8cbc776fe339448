"""depthup teaches a text LLM to hear, without making it forget how to read.

The commands as Python calls are in `depthup.api`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from depthup.registration import install as _install

__version__ = "0.1.0"

_PUBLIC = {
    "Recipe": "depthup.config",
    "UserError": "depthup.errors",
    "SpeechLM": "depthup.model.speech_lm",
    "SpeechLMConfig": "depthup.model.speech_lm",
    "SpeechProcessor": "depthup.model.processor",
    "load": "depthup.api",
    "load_recipe": "depthup.recipe",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    """Public names load what they need on first use, so that `import depthup` is instant."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'depthup' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


_install()
