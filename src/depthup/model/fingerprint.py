"""Knowing weights again."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def fingerprint(llm: nn.Module) -> str:
    """A hash of all weights, the same whatever format between float32 and bfloat16 they were loaded in."""
    digest = hashlib.sha256()
    for name, parameter in sorted(llm.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        values = parameter.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(values.view(torch.int16).numpy().data)
    return digest.hexdigest()
