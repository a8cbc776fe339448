"""Checkpoints on the Hugging Face hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Optional, Union

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from depthup.errors import UserError
from depthup.model.base import PACKAGED

NAMES = {PACKAGED: "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""What the hub calls a base that comes from elsewhere."""


def hub_name(name: str) -> Optional[str]:
    """What the hub calls a base or an encoder; None for a directory that did not come from there."""
    if name in NAMES:
        return NAMES[name]
    for part in Path(name).parts:
        if part.startswith("models--"):  # the hub's own cache
            return part.removeprefix("models--").replace("--", "/")
    return None if is_local(name) else name


def is_local(name: str) -> bool:
    """Whether a name is a path of this machine."""
    return name.startswith(("/", ".", "~")) or os.path.exists(name)


def hub_file(name: str, file: str, ask: bool) -> Optional[Path]:
    """A file of a repository, from the cache, or if `ask` from the hub; None where there is none to be had."""
    try:
        return Path(hf_hub_download(name, file, local_files_only=not ask))
    except (HFValidationError, HfHubHTTPError, OSError):
        return None


def push(
    directory: Path,
    repo_id: str,
    *,
    private: Optional[bool] = None,
    token: Union[bool, str, None] = None,
    revision: Optional[str] = None,
    create_pr: bool = False,
    commit_message: str = "Upload checkpoint of depthup",
) -> str:
    """Upload a checkpoint's files and return the address; the repository is made where there is none.

    What belongs to this machine or to training alone stays here. Raises UserError where base or encoder would not be
    found elsewhere, and where the hub refuses.
    """
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if not config.get("standalone"):
        for part, name in (("base", config["base"]), ("encoder", (config.get("encoder") or {}).get("name", ""))):
            if is_local(name):
                raise UserError(
                    f"{part} {name}: is on this machine alone, so nobody else could load {repo_id}; "
                    f"`depthup export RUN DIR --push-to-hub {repo_id}` puts it inside"
                )
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=directory,
            allow_patterns=["*.json", "*.jinja", "*.md", "*.model", "*.py", "*.safetensors", "*.txt"],
            ignore_patterns=["*/*", "training_state.*", "trainer_state.json"],
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"{repo_id}: cannot be uploaded ({str(error).strip().splitlines()[0]})") from error
