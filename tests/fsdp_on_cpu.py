"""`depthup train ...` for each JSON list of words given, as `accelerate launch` runs it on GPUs, but over gloo.

A first word `FSDP_...=value` replaces what the configuration says.

Accelerate shards on GPUs only; told that these processes have some, it does all the same on the CPU.
"""

import json
import os
import sys

import torch
from accelerate import DistributedType, PartialState

from depthup.cli import main


def on_cpu(state: PartialState) -> None:
    state.device = torch.device("cpu")


def train(words: list[str]) -> int:
    if words[0].startswith("FSDP_"):
        name, _, value = words.pop(0).partition("=")
        os.environ[name] = value
    return main(["train", *words])


PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = on_cpu
torch.distributed.init_process_group("gloo")
statuses = [train(json.loads(words)) for words in sys.argv[1:]]
torch.distributed.destroy_process_group()
sys.exit(max(statuses))
