"""Where and in which arithmetic a run computes."""

import torch

from dpsd.config import Config
from dpsd.errors import UserError


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        UserError: a GPU is asked for by name and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device: {name}, but no GPU is visible; accepted here: auto, cpu")
    return torch.device(name)


def pick_dtype(config: Config, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor or GPU has instructions for it."""
    if config.precision == "auto":
        fast = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else torch.cpu._is_avx512_bf16_supported()
        )
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if config.precision == "bfloat16" else torch.float32
