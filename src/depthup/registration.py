"""What `import depthup` tells transformers' auto classes and pipelines, without importing either.

They learn stand-ins as soon as they are imported themselves; a stand-in imports the model when it is first used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Optional

MODEL_TYPE = "depthup"
"""In a checkpoint's `config.json`."""


class _StandIn(type):
    """A class that has a name alone, until it is called or asked for an attribute."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    def __getattr__(cls, attribute: str) -> Any:
        return getattr(cls._real(), attribute)

    def _real(cls) -> Any:
        return getattr(import_module(cls.__module__), cls.__name__)


def _stand_in(module: str, name: str) -> Any:
    return _StandIn(name, (), {"__module__": module})


# This module registers all classes that go together.
_CONFIG, _PROCESSOR = (_stand_in("depthup.model.speech_lm", name) for name in ("SpeechLMConfig", "SpeechProcessor"))
_PIPELINE = _stand_in("depthup.transcribe.pipeline", "ForAnyModel")


def _tell_config(auto: ModuleType) -> None:
    auto.AutoConfig.register(MODEL_TYPE, _CONFIG, exist_ok=True)


def _tell_processor(auto: ModuleType) -> None:
    auto.AutoProcessor.register(_CONFIG, _PROCESSOR, exist_ok=True)


def _tell_pipelines(pipelines: ModuleType) -> None:
    pipelines.SUPPORTED_TASKS["automatic-speech-recognition"]["impl"] = _PIPELINE


TOLD: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _tell_config,
    "transformers.models.auto.processing_auto": _tell_processor,
    "transformers.pipelines": _tell_pipelines,
}


class _Watch(MetaPathFinder):
    """Finds the modules of `TOLD` as Python does, and tells each once it is there."""

    def find_spec(
        self, name: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        if name not in TOLD or not (spec := PathFinder.find_spec(name, path, target)) or not spec.loader:
            return None
        spec.loader.exec_module = partial(_then_tell, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _then_tell(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    execute(module)
    TOLD[module.__name__](module)


def install() -> None:
    """Tell those of transformers' modules that are there, and watch for the others."""
    for name, tell in TOLD.items():
        if (module := sys.modules.get(name)) is not None:
            tell(module)
    sys.meta_path.insert(0, _Watch())
