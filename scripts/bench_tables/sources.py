"""Images a second that each source draws, beside those that the student learns from, in one run."""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch

from bench_tables.jobs import RESULTS, ROOT, Job
from dpsd.config import Config, load_config, parse_config
from dpsd.device import pick_dtype
from dpsd.generator.procedural import FAMILIES
from dpsd.generator.synthesizer import Synthesizer, Undecided
from dpsd.student.bank import Bank
from dpsd.student.student import Student

CONFIGS = ("mnist.yaml", "cifar10_cpu.yaml")
IMAGES, ROUNDS = 2_048, 5
FIELDS = "untrained networks"
_FIELDS = {"kind": "adversarial", "network": "fields", "untrained": 1, "steps": 0}


def jobs(args: Namespace) -> Iterator[Job]:
    """Both shapes at once."""
    n = max(64, IMAGES // args.shrink)
    yield Job(RESULTS / "sources.json", {"configs": list(CONFIGS)},
              lambda: {"rates": {name: rates(name, n) for name in CONFIGS}})  # fmt: skip


def rates(name: str, n: int) -> dict[str, float]:
    """Images a second of each source, and of the student under `student`.

    Each is the median of five; they take turns, so that other work of the machine slows all alike.
    """
    config = load_config(ROOT / "configs" / name)
    work = {"student": _learning(config, n)}
    for source in (*FAMILIES, "photographs", FIELDS):
        how = _FIELDS if source == FIELDS else {"kind": "procedural", "shares": {source: 1}}
        work[source] = _drawing(config, how, n)
    seconds: dict[str, list[float]] = {part: [] for part in work}
    for _ in range(ROUNDS):
        for part, do in work.items():
            start = time.perf_counter()
            do()
            seconds[part].append(time.perf_counter() - start)
    return {part: n / median(taken) for part, taken in seconds.items()}


def _drawing(config: Config, how: dict[str, Any], n: int) -> Callable[[], Any]:
    tree = config.model_dump(mode="json")
    tree["generator"] |= {"select": 1, "recombine": 0} | how
    made = Synthesizer(parse_config(tree), config.facts, torch.device("cpu"))
    return partial(made.sample, n, Undecided(config.facts.classes))


def _learning(config: Config, n: int) -> Callable[[], Any]:
    """Learning from n answered images, augmentation included."""
    facts = config.facts
    student = Student(
        config, facts, rounds=1, queries_per_round=n, soft_targets=True,
        device=torch.device("cpu"), dtype=pick_dtype(config.precision, torch.device("cpu")),
    )  # fmt: skip
    student.draws = n
    bank = Bank(n, facts.shape, facts.classes)
    images = Synthesizer(config, facts, torch.device("cpu")).sample(n, Undecided(facts.classes))
    bank.add(images, torch.zeros(n, facts.classes))
    return partial(student.fit, bank, n)
