"""`depthup train ...` for each JSON list of words given, as `accelerate launch` runs it on GPUs, but over gloo.

DeepSpeed runs on CPUs if told so (DS_ACCELERATOR=cpu); Accelerate asks for a GPU, and is told that there is one.
"""

import json
import sys

import torch
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState
from deepspeed import comm

from depthup.cli import main


def on_cpu(state: PartialState) -> None:
    state.device = torch.device("cpu")


def not_cpu(cls: type) -> None:
    begin = cls.__init__
    cls.__init__ = lambda self, *args, **kwargs: begin(self, *args, **{**kwargs, "cpu": False})


PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = on_cpu
not_cpu(PartialState)
not_cpu(AcceleratorState)
comm.init_distributed("gloo", auto_mpi_discovery=False)
statuses = [main(["train", *json.loads(words)]) for words in sys.argv[1:]]
torch.distributed.destroy_process_group()
sys.exit(max(statuses))
