"""Where and in which arithmetic a run computes, alone or in several processes under torchrun."""

import contextlib
import ctypes
import math
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dpsd.errors import UserError
from dpsd.imports import brief

T = TypeVar("T")
_PATIENCE = timedelta(days=2)  # rank 0 may train a teacher; a rank that died is noticed at once
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
_LARGEST_KEPT, _MOST_KEPT = 2**28, 2**31 - 1  # bytes


def use_threads(threads: int | None) -> str:
    """Compute with so many threads of the processor; None leaves torch's choice.

    Torch takes what `OMP_NUM_THREADS` says, else one thread a core. Freed memory is kept for the
    next batch (`keep_freed_memory`).

    Returns:
        A line for the user: how many are used, and why.
    """
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
        why = "threads of the configuration"
    else:
        limited = "OMP_NUM_THREADS" in os.environ
        why = "OMP_NUM_THREADS" if limited else "all; set threads to leave some to other processes"
    return f"threads: {torch.get_num_threads()} on {os.cpu_count()} cores ({why})"


def keep_freed_memory() -> None:
    """Let the process keep freed memory for its next tensors; only glibc can, elsewhere a no-op.

    By default glibc gives blocks of more than 32 MiB back to the system as they are freed, and
    what is free at the end of its heap. The next batch then waits for zeroed pages, a fault for
    every 4 KiB: a third of a training step on one virtual machine. Here blocks of up to 256 MiB
    stay in the heap, and up to 2 GiB at its end. See mallopt(3).
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)


def join_processes(device: torch.device) -> None:
    """Join the process group that torchrun announces; without torchrun do nothing.

    Each process takes a GPU of its own where `device` names none by number. Values on the CPU
    travel by gloo, gradients on a GPU by NCCL.
    """
    announced = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if announced and not dist.is_initialized():
        on_gpu = device.type == "cuda"
        if on_gpu and device.index is None:
            local = int(os.environ.get("LOCAL_RANK", "0"))
            torch.cuda.set_device(local % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)


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


def local_processes() -> int:
    """Number of processes on this machine, 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many images of a shape [C, H, W] go through a network at a time: 512, fewer large ones.

    So activations take bounded memory. 512 images of 28 x 28 grey pixels stay in the cache.
    """
    return max(1, min(512, 2**23 // math.prod(shape)))


def own_share(rows: Tensor) -> Tensor:
    """This process's part of rows that all processes hold alike."""
    return rows.tensor_split(world_size())[rank()]


def own_chunks(rows: Tensor, chunk: int) -> Tensor:
    """This process's part of rows that all processes hold alike, in whole chunks.

    A network's outputs may depend, in their last bit, on the batch that a row is in. The chunks
    are those of one process, and so are the outputs. With fewer chunks than processes some have
    none.

    Args:
        rows: [B, ...].
        chunk: rows that one process takes at a time.
    """
    starts = own_share(torch.arange(0, len(rows), chunk))
    return rows[int(starts[0]) : int(starts[-1]) + chunk] if len(starts) else rows[:0]


def agreed(work: Callable[[], T]) -> T:
    """What `work` gives on this rank, once it has succeeded on every rank. All ranks call it.

    An error on one rank is raised on all, so that none waits for another that has stopped. No rank
    goes on before all have come this far.

    Raises:
        UserError: as one rank raised it.
        RuntimeError: another error on another rank.
    """
    if world_size() == 1:
        return work()
    error: Exception | None = None
    try:
        value = work()
    except Exception as e:
        error = e
    told = error if isinstance(error, UserError) else error and f"{rank()}: {brief(error)}"
    errors: list[Any] = [None] * world_size()
    dist.all_gather_object(errors, told)
    if error is not None:
        raise error
    for other in errors:
        if isinstance(other, UserError):
            raise other
        if other is not None:
            raise RuntimeError(f"stopped with rank {other}")
    return value


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


def joined(rows: int, pieces: Iterable[Tensor]) -> Tensor:
    """The rows of all pieces in order; at no time are they in memory twice.

    Args:
        rows: of all pieces together.
        pieces: [B, ...], at least one.
    """
    out, done = None, 0
    for piece in pieces:
        if out is None:
            out = piece.new_empty((rows, *piece.shape[1:]))
        out[done : done + len(piece)] = piece
        done += len(piece)
    assert out is not None
    return out


def shared(rows: int, pieces: int, work: Callable[[int], Tensor]) -> Tensor:
    """The rows of `work(0)`, `work(1)`, ... in order, on every rank; each is made by one rank.

    All ranks call it. `work` must give the same rows on every rank. A rank holds all rows once and
    those that it made a second time.

    Args:
        rows: of all pieces together.
        pieces: how many there are, from 1.
        work: makes one piece on the CPU, [B, ...].
    """
    if world_size() == 1:
        return joined(rows, map(work, range(pieces)))
    mine = own_share(torch.arange(pieces)).tolist()
    made = agreed(lambda: [work(i) for i in mine])
    kind = made[0].new_empty((0, *made[0].shape[1:])) if made else None
    told: list[tuple[int, Tensor | None]] = [(0, None)] * world_size()
    dist.all_gather_object(told, (sum(map(len, made)), kind))
    known = next(kind for _, kind in told if kind is not None)
    out, done = known.new_empty((rows, *known.shape[1:])), 0
    for source, (count, _) in enumerate(told):
        part = out[done : done + count]
        if count and source == rank():
            torch.cat(made, out=part)
        if count:
            dist.broadcast(part, source)
        done += count
    return out


def gather_rows(rows: Tensor) -> Tensor:
    """On rank 0 the rows of all ranks, in their order; elsewhere this rank's own."""
    parts = gather(rows)
    return rows if parts is None else torch.cat([p for p in parts if len(p)] or [rows])


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all ranks, with a gradient; itself in one process."""
    if world_size() == 1:
        return values
    total: Tensor = _Sum.apply(values)
    return total


class _Sum(torch.autograd.Function):
    """y = sum_r x_r on every rank. So the gradient of each x_r is the sum of all ranks' of y."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def sum_gradients(model: nn.Module) -> None:
    """Add up the gradients of all ranks."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    for g, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        g.copy_(part.view_as(g))


def align_random(device: torch.device) -> None:
    """Set torch's global random generators on all ranks to where rank 0's stand."""
    if world_size() == 1:
        return
    torch.set_rng_state(broadcast(torch.get_rng_state()))
    if device.type == "cuda":
        torch.cuda.set_rng_state(broadcast(torch.cuda.get_rng_state()))


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


def available_bytes() -> int:
    """Memory that is free now, in bytes."""
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 2**62
