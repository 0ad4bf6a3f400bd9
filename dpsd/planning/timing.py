"""Seconds and memory that a run takes, timed on small batches of synthetic images."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dpsd.config import Config, PublicFacts
from dpsd.config.sections import DpConfig
from dpsd.data.rows import fits_in_memory, in_memory
from dpsd.device import pick_device, pick_dtype
from dpsd.generator.procedural import procedural
from dpsd.generator.synthesizer import Synthesizer
from dpsd.models.dp_networks import build_dp_model, fixed_inputs
from dpsd.models.frozen import Teacher
from dpsd.models.networks import as_input, build_model
from dpsd.planning.votes import Choice
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.plan import Plan
from dpsd.student.bank import Bank
from dpsd.student.student import Student, draws_per_round
from dpsd.teachers.dp_sgd import train_dp
from dpsd.teachers.members import Members, Weights, member_choices, train_members

_TIMED_IMAGES = 256
_TIMED_VALUES = _TIMED_IMAGES * 32 * 32 * 3
LOOP_OVERHEAD = 1.05
"""Ledger, noise and log-likelihoods take at most a twentieth of the loop."""
_TEACHERS = 8
_COPIES = 16
_ASKED = 32
_DP_ROWS = 512
_LEAST_ROWS = 2


def ensemble_cost(config: Config, facts: PublicFacts, choice: Choice) -> dict[str, Any]:
    """The cost of training all teachers and of their votes, extrapolated from eight teachers.

    Args:
        config: of the run.
        facts: public shape and number of classes.
        choice: the numbers of teachers and of answers.

    Returns:
        `seconds_by_part` and `bytes` of the weights.
    """
    device, size = pick_device(config.device), max(_LEAST_ROWS, round(choice.rows_per_teacher))
    dtype = pick_dtype(config.precision, device)
    images, labels = _synthetic(_TEACHERS * size, facts)
    rows = {i: torch.arange(i * size, (i + 1) * size) for i in range(_TEACHERS)}

    def train() -> Weights:
        members = Members(images, labels, rows, bytes(16))
        return train_members(config.teacher, facts, members, device=device, dtype=dtype)

    weights = train()
    each = _seconds(train) / _TEACHERS
    asked, _ = _synthetic(_ASKED, facts)
    few, many = (_vote_seconds(config, facts, weights, copies, asked) for copies in (1, _COPIES))
    vote = max(0.0, many - few) / (_COPIES - 1) / _TEACHERS  # the rest is once an image
    size_each = sum(w.numel() * w.element_size() for w in weights.values()) / _TEACHERS
    return {
        "seconds_by_part": {
            "teachers": each * choice.shards,
            "teacher": (vote * choice.shards + few) / _ASKED * choice.answers,
        },
        "bytes": round(2 * size_each * choice.shards),  # once stacked, once in the file's buffer
    }


def inherited_cost(config: Config, facts: PublicFacts, rows: int) -> dict[str, Any]:
    """The cost of DP-SGD of one teacher, extrapolated from two steps on 512 synthetic images.

    Args:
        config: of the run; `teacher.dp` is read.
        facts: public shape and number of classes.
        rows: number of training records.
    """
    images, labels = _synthetic(_DP_ROWS, facts)
    device = pick_device(config.device)
    dp = DpConfig(
        epsilon=1e9, noise_multiplier=1.0, batch_size=_DP_ROWS, epochs=2, lr=config.teacher.dp.lr,
        max_grad_norm=config.teacher.dp.max_grad_norm,
    )  # fmt: skip
    source = NoiseSource()

    def train() -> None:
        model = build_dp_model(config.teacher.model, facts.shape, facts.classes).to(device)
        train_dp(model, images, labels, dp, source=source, say=lambda text: None)

    def look() -> torch.Tensor:
        model = build_dp_model(config.teacher.model, facts.shape, facts.classes).to(device)
        inputs, _ = fixed_inputs(model, images)
        return in_memory(inputs, "the estimate")

    look()
    once = _seconds(look)
    train()
    each = max(0.0, _seconds(train) - once) / dp.epochs / _DP_ROWS
    example = look()[0]
    held = rows if fits_in_memory(rows * math.prod(facts.shape)) else 0
    return {
        "seconds_by_part": {
            "teachers": once / _DP_ROWS * rows + each * rows * config.teacher.dp.epochs
        },
        "bytes": held * example.numel() * example.element_size(),
    }


def _vote_seconds(
    config: Config, facts: PublicFacts, weights: Weights, copies: int, asked: torch.Tensor
) -> float:
    """Seconds of the votes on all images by `copies` copies of the teachers; the faster of two."""
    device = pick_device(config.device)
    dtype = pick_dtype(config.precision, device)
    tiled = {name: torch.cat([w] * copies) for name, w in weights.items()}
    choose = member_choices(config.teacher.model, facts, tiled, device, dtype)
    choose(asked)
    return min(_seconds(lambda: choose(asked)) for _ in range(2))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _synthetic(n: int, facts: PublicFacts) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of the strokes prior, and labels in turn. Global generators stay untouched."""
    images = procedural("strokes", n, facts.shape, torch.Generator().manual_seed(0))
    return images, torch.arange(n) % facts.classes


def expected_seconds(config: Config, plan: Plan) -> dict[str, float | None]:
    """Seconds of a run by part, extrapolated from small batches of synthetic images.

    The networks are untrained, and no data or weights are read. The teacher's part is None where
    its architecture is not known by name.
    """
    device, shape = pick_device(config.device), plan.facts.shape
    dtype = pick_dtype(config.precision, device)
    n = _timed_images(plan.facts)
    batch = min(n, config.student.batch_size)
    quick = config.model_copy(
        update={
            "student": config.student.model_copy(update={"batch_size": batch}),
            "generator": config.generator.model_copy(update={"select": 1, "steps": 2}),
        }
    )
    student = Student(
        quick, plan.facts, rounds=2, queries_per_round=batch, device=device, dtype=dtype,
        soft_targets=plan.mechanism.soft_targets,
    )  # fmt: skip
    synthesizer = Synthesizer(quick, plan.facts, device)
    images = synthesizer.sample(n, student)
    bank = Bank(n, shape, plan.facts.classes)
    bank.add(images, torch.zeros(n, plan.facts.classes))
    many = min(4 * n, plan.queries_per_round)  # a call's fixed cost weighs less in a real round
    drawn = plan.answers * config.generator.select
    looked = drawn * (config.generator.select > 1) + plan.answers * plan.mechanism.uses_prior
    trained = plan.rounds * draws_per_round(config.student, plan.queries_per_round)
    trained += config.student.refit_epochs * min(config.loop.window, plan.answers)
    parts: dict[str, float | None] = {
        "images": _warm_seconds(lambda: synthesizer.sample(many, student, round=1)) / many * drawn,
        "teacher": _teacher_seconds(config, plan, images, device, dtype),
        "prior": _warm_seconds(lambda: student.predict(images)) / n * looked if looked else 0.0,
        "student": _warm_seconds(lambda: student.fit(bank, batch)) / student.draws * trained,
    }
    if synthesizer.adversarial is not None:
        once = _warm_seconds(lambda: synthesizer.update(student, round=0)) / 2
        parts["generator"] = once * config.generator.steps * plan.rounds
    return parts


def activation_bytes(config: Config, facts: PublicFacts) -> dict[str, int]:
    """Memory that a batch of the student leaves for its backward pass, in bytes.

    What autograd keeps of one image is measured on a few black ones; the network is untrained. It
    lies where the student computes.

    Args:
        config: of the run.
        facts: public shape and number of classes.

    Returns:
        `images`: held at once, `student.micro_batch` or `batch_size`. `batch`: of so many.
        `untimed`: the part of it that `expected_seconds` does not reach, since it times a smaller
        batch of large images.
    """
    device = pick_device(config.device)
    dtype = pick_dtype(config.precision, device)
    with torch.random.fork_rng(devices=[]):
        model = build_model(config.student.model, facts.shape, facts.classes)
        model = model.to(device).to(memory_format=torch.channels_last)
        few, more = (_kept_bytes(model, (n, *facts.shape), dtype) for n in (2, 4))
    each, student = max(0, more - few) // 2, config.student
    batch = min(student.batch_size, student.micro_batch or student.batch_size)
    return {
        "images": batch,
        "batch": each * batch,
        "untimed": each * max(0, batch - _timed_images(facts)),
    }


def _kept_bytes(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of the tensors that autograd keeps of a forward pass, each storage once."""
    device, kept = next(model.parameters()).device, dict[int, torch.UntypedStorage]()

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage
        return x

    images = torch.zeros(shape, dtype=torch.uint8, device=device)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32),
    ):
        model(as_input(images))
    return sum(storage.nbytes() for storage in kept.values())


def _timed_images(facts: PublicFacts) -> int:
    """256 images, fewer of large ones."""
    return max(8, min(_TIMED_IMAGES, _TIMED_VALUES // math.prod(facts.shape)))


def _teacher_seconds(
    config: Config, plan: Plan, images: torch.Tensor, device: torch.device, dtype: torch.dtype
) -> float | None:
    t = config.teacher
    if t.path is not None or ":" in t.model:
        return None
    if t.weights is not None and "model" not in t.model_fields_set:
        return None  # a whole program: only the file has its architecture
    facts = plan.facts
    with torch.random.fork_rng(devices=[]):
        model = build_model(t.model, facts.shape, facts.classes)
    teacher = Teacher(model, classes=facts.classes, shape=facts.shape)
    teacher = teacher.to(device).to(memory_format=torch.channels_last)

    def ask() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            teacher(images).cpu()

    return _warm_seconds(ask) / len(images) * plan.answers * (t.shards or 1)


def _warm_seconds(work: Callable[[], Any]) -> float:
    """Seconds of the second call; the first one warms up."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_bytes() -> int:
    """Peak memory of this process so far, in bytes; 0 where the system does not say."""
    try:
        with open("/proc/self/status") as f:
            return next(int(x.split()[1]) * 1024 for x in f if x.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0
