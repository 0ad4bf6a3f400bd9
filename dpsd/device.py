"""Where and in which arithmetic a run computes, alone or in several processes under torchrun."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dpsd.errors import UserError


def use_threads(threads: int | None) -> str:
    """Compute with so many threads of the processor; None leaves torch's choice.

    Torch takes what `OMP_NUM_THREADS` says, else one thread a core.

    Returns:
        A line for the user: how many are used, and why.
    """
    if threads is not None:
        torch.set_num_threads(threads)
        why = "threads of the configuration"
    else:
        limited = "OMP_NUM_THREADS" in os.environ
        why = "OMP_NUM_THREADS" if limited else "all; set threads to leave some to other processes"
    return f"threads: {torch.get_num_threads()} on {os.cpu_count()} cores ({why})"


def join_processes(device: torch.device) -> None:
    """Join the process group that torchrun announces; without torchrun do nothing."""
    announced = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if announced and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def leave_processes() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_share(rows: Tensor) -> Tensor:
    """This process's part of rows that all processes hold alike."""
    return rows.tensor_split(world_size())[rank()]


def broadcast(value: Any) -> Any:
    """Rank 0's value on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any] | None:
    """On rank 0 the values of all ranks, in their order; None elsewhere."""
    if world_size() == 1:
        return [value]
    box: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, box, dst=0)
    return box


def mean_gradients(model: nn.Module) -> None:
    """Average the gradients over all ranks."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for g, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        g.copy_(part.view_as(g))


def mean_buffers(tensors: list[Tensor]) -> None:
    """Average floating buffers (batch-norm statistics) over all ranks."""
    for t in tensors if world_size() > 1 else []:
        dist.all_reduce(t)
        t /= world_size()


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


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor or GPU has instructions for it."""
    if precision == "auto":
        fast = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else torch.cpu._is_avx512_bf16_supported()
        )
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
