"""Several processes under torchrun: rank 0 asks, everybody learns."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start(device: torch.device) -> None:
    """Join the process group that torchrun announces; without torchrun do nothing."""
    announced = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if announced and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(rows: Tensor) -> Tensor:
    """This process's part of rows that all processes hold alike."""
    return rows.tensor_split(world())[rank()]


def broadcast(value: Any) -> Any:
    """Rank 0's value on every rank."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any] | None:
    """On rank 0 the values of all ranks, in their order; None elsewhere."""
    if world() == 1:
        return [value]
    box: list[Any] | None = [None] * world() if rank() == 0 else None
    dist.gather_object(value, box, dst=0)
    return box


def mean_gradients(model: nn.Module) -> None:
    """Average the gradients over all ranks."""
    if world() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= world()
    for g, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        g.copy_(part.view_as(g))


def mean_buffers(tensors: list[Tensor]) -> None:
    """Average floating buffers (batch-norm statistics) over all ranks."""
    for t in tensors if world() > 1 else []:
        dist.all_reduce(t)
        t /= world()
