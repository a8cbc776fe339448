"""Attention kernels by transformers' names: which of them an LLM can use here, and one line where it cannot."""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available, is_kernels_available

from depthup.errors import UserError

SUPPORT = {"sdpa": "_supports_sdpa", "flex_attention": "_supports_flex_attn"}
"""What a class of LLMs says of itself."""
FLASH = {
    "flash_attention_2": (is_flash_attn_2_available, "flash-attn"),
    "flash_attention_3": (is_flash_attn_3_available, "flash-attn-3"),
}
"""Whether it is installed, and the package that brings it; transformers takes one from the package `kernels` too."""


def kernel_options(kernel: str, llm_class: Any, dtype: Any) -> dict[str, str]:
    """Arguments of `from_pretrained` for a kernel; with `auto`, none, and the base takes its own.

    Raises UserError where it cannot be used, by this class, in this format or on this machine.
    """
    if kernel == "auto":
        return {}
    check_kernel(kernel, llm_class, dtype)
    return {"attn_implementation": kernel}


def check_kernel(kernel: str, llm_class: Any, dtype: Any) -> None:
    """Raises UserError; see `kernel_options`."""
    if kernel not in (known := ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]) and kernel not in FLASH:
        offered = [name for name in known if not name.startswith("paged|")]
        raise UserError(f"attn_implementation {kernel}: not known; there are {', '.join(sorted({*offered, *FLASH}))}")
    support = "_supports_flash_attn" if kernel in FLASH else SUPPORT.get(kernel)
    if support and not getattr(llm_class, support, False):
        raise UserError(f"attn_implementation {kernel}: {llm_class.__name__} does not support it; use eager or auto")
    if kernel in FLASH:
        installed, package = FLASH[kernel]
        if not torch.cuda.is_available():
            raise UserError(f"attn_implementation {kernel}: needs a GPU, and there is none here; use sdpa")
        if not (installed() or is_kernels_available()):
            raise UserError(f"attn_implementation {kernel}: is not installed; pip install {package}, or use sdpa")
        if dtype == torch.float32:
            raise UserError(f"attn_implementation {kernel}: computes in 16 bits alone; set dtype to bfloat16")
