"""How a model comes from a checkpoint and goes into one, by Hugging Face's names."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Optional, Union

import torch
from transformers import PreTrainedModel
from typing_extensions import Self

from depthup.model import checkpoint, hub
from depthup.model.base import load_base
from depthup.model.configuration import SpeechLMConfig
from depthup.model.loading import load_model
from depthup.model.quantized import quantize


class Checkpointed:
    """The methods of `SpeechLM` that read and write."""

    config: Any
    llm: Any

    @property
    def _model(self) -> Any:
        """Itself; its other parts are in `SpeechLM`."""
        return self

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: Union[str, Path],
        *,
        config: Optional[SpeechLMConfig] = None,
        base: Optional[str] = None,
        encoder: Optional[str] = None,
        dtype: Union[str, torch.dtype, None] = None,
        device_map: Union[str, int, torch.device, dict[str, Any], None] = None,
        **kwargs: Any,
    ) -> Self:
        """Load a checkpoint: find its base, check that it is the one it was trained on, add what was trained.

        Args:
            pretrained_model_name_or_path: directory or hub id of a checkpoint.
            base: where the base stands now, if it has moved.
            encoder: the same of a Hugging Face speech encoder.
            dtype: of the LLM, float32, bfloat16 or float16; by default as in training, on CPUs float32.
            device_map: one device for the whole model; `auto` is the first GPU where there is one.
            kwargs: `attn_implementation`, and of the hub `revision`, `token`, `cache_dir`, `force_download`,
                `local_files_only`.

        Raises UserError for a missing, truncated or foreign checkpoint and for a wrong or changed base, and TypeError
        for unknown arguments.
        """
        return load_model(cls, pretrained_model_name_or_path, config, base, encoder, dtype, device_map, **kwargs)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: Union[str, Path],
        *,
        is_main_process: bool = True,
        state_dict: Optional[dict[str, torch.Tensor]] = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write what was trained, and nothing else: `model.safetensors`, `config.json` and a model card.

        Args:
            is_main_process: other processes write nothing.
            state_dict: tensors to take instead of the model's own.
            push_to_hub: upload the directory too; `kwargs` go to `push_to_hub`.

        Raises TypeError for unknown arguments.
        """
        unknown = (
            set() if push_to_hub else kwargs.keys() - {"save_function"}
        )  # accelerate's, for files of other formats
        if unknown:
            raise TypeError(f"SpeechLM.save_pretrained: unknown arguments {', '.join(sorted(unknown))}")
        if not is_main_process:
            return
        tensors = state_dict and {name: state_dict[name] for name in checkpoint.trained_tensors(self._model)}
        checkpoint.save(self._model, Path(save_directory), tensors=tensors and checkpoint.whole(tensors))
        if push_to_hub:
            hub.push(Path(save_directory), kwargs.pop("repo_id", Path(save_directory).name), **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:  # type: ignore[override]
        """Upload what was trained and a model card; returns the address.

        `kwargs` are those of `depthup.model.hub.push`. Raises UserError where base or encoder stand on this machine
        alone; `depthup export` puts them into a checkpoint that can be pushed.
        """
        with tempfile.TemporaryDirectory() as directory:
            checkpoint.save(self._model, Path(directory))
            return hub.push(Path(directory), repo_id, **kwargs)

    def load_base(self) -> PreTrainedModel:
        """A fresh copy of the base as it was, and packed as it is, for comparison."""
        name, revision = self.config.base_source
        kernel = self.llm.config._attn_implementation  # another one rounds otherwise
        base = load_base(name, revision, self.llm.dtype, attn_implementation=kernel)
        quantize(base, self.config.base_quantization)
        return base.eval()
