"""What attacks and audits find, and what the auditor finds on mechanisms of known epsilon."""

import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

import dpsd
from bench_tables.cells import hashed_tree
from bench_tables.jobs import RESULTS, ROOT, Job, chosen, digest
from dpsd.attacks.audit.self_test import self_test, self_test_text
from dpsd.attacks.audit.text import audit_text
from dpsd.attacks.command import audit, inversion, membership
from dpsd.attacks.inversion.text import inversion_text
from dpsd.attacks.membership.text import membership_text
from dpsd.config import Config
from dpsd.runs.folder import Run, open_run

ATTACKS, INVERSION = RESULTS / "attacks", RESULTS / "inversion"
RUNS = {
    "digits-eps1": ("attacks_digits.yaml", []),
    "faces-eps10": ("attacks_faces.yaml", []),
    "mnist-eps1": ("attacks_mnist.yaml", []),
    "mnist-eps10": ("attacks_mnist.yaml", ["privacy.epsilon=10", "privacy.ask=label",
                                           "privacy.answers=100000"]),
    "mnist-ensemble-eps10": ("mnist_ensemble.yaml", [
        "data.split=mnist", "privacy.epsilon=10", "teacher.shards=1000", "privacy.answers=32768",
        "student.refit_epochs=20", "generator.shares={strokes: 1}"]),
    "mnist-inherited-eps3": ("mnist_dp.yaml", ["data.split=mnist"]),
}  # fmt: skip
CELLS = {
    "digits": {"budget": "fast", "runs": ["digits-eps1"]},
    "faces": {"budget": "fast", "runs": ["faces-eps10"]},
    "mnist": {"budget": "standard", "runs": ["mnist-eps1", "mnist-eps10", "mnist-ensemble-eps10",
                                             "mnist-inherited-eps3"]},
    "mnist-alone": {"budget": "full", "runs": ["mnist-eps1"]},  # hours
}  # fmt: skip
"""Budget; the run that is attacked, then the runs whose students stand beside its own."""


def audit_jobs(args: Namespace) -> Iterator[Job]:
    """Audits of a run."""
    return _run_jobs("audit", partial(audit, say=print), audit_text, args)


def membership_jobs(args: Namespace) -> Iterator[Job]:
    """Membership attacks on a run."""
    return _run_jobs("membership", partial(membership, say=print), membership_text, args)


def _run_jobs(
    kind: str, measure: Callable[..., dict], text: Callable[[dict], str], args: Namespace
) -> Iterator[Job]:
    """A report for each seed; the run's id and folder stay out of it."""
    run, budget = open_run(args.run), args.budget or "standard"

    def work(seed: int) -> dict[str, Any]:
        start = time.perf_counter()
        report = measure(run, budget=budget, seed=seed)
        print(text(report))
        kept = {k: v for k, v in report.items() if k not in ("run", "lines")}
        return kept | {"title": title(run.config), "wall_seconds": time.perf_counter() - start}

    for name in args.cell:
        for seed in args.seed or [0]:
            facts = {"config_hash": config_hash(run.config), "budget": budget, "seed": seed}
            yield Job(ATTACKS / f"{kind}-{name}-seed{seed}.json", facts, partial(work, seed))


def config_hash(config: Config) -> str:
    """The hash of a configuration, without the places of the teacher and the data."""
    tree = hashed_tree(config)
    for key in ("path", "weights"):
        tree["teacher"].pop(key)
    return digest(json.dumps(tree, sort_keys=True))


def title(config: Config) -> str:
    """The run in a few words, its epsilon with its unit."""
    p, split = config.privacy, config.data.split
    unit = "answer" if p.route == "single" else "record" if p.unit == "answer" else p.unit
    epsilon = p.epsilon if p.route != "inherited" else config.teacher.dp.epsilon
    claim = "not private" if epsilon is None else f"eps {epsilon:g} per {unit}"
    names = config.facts.class_names
    private = f" ({len(names)} classes private: {', '.join(names[:5])})" if split else ""
    data = f"{config.data.name}{private}"
    return f"{data}, route {p.route}, {p.mechanism}, {claim}, {config.answers():,} answers"


def self_test_jobs(args: Namespace) -> Iterator[Job]:
    """The auditor on mechanisms of known epsilon, some broken."""
    seed = (args.seed or [0])[0]

    def work() -> dict[str, Any]:
        start = time.perf_counter()
        outcomes = self_test(seed=seed)
        print(self_test_text(outcomes))
        seconds = time.perf_counter() - start
        return {"outcomes": [o.facts() for o in outcomes], "wall_seconds": seconds}

    yield Job(ATTACKS / "self-test.json", {"seed": seed}, work)


def inversion_jobs(args: Namespace) -> Iterator[Job]:
    """Inversion attacks; stopped attacks, and stopped runs that they need, are resumed."""
    for name, cell, _ in chosen(CELLS, args):
        work = partial(measure_inversion, name, cell["runs"], args.budget or cell["budget"], args)
        yield Job(INVERSION / f"{name}.json", {"cell": name, "runs": cell["runs"]}, work)


def measure_inversion(cell: str, runs: list[str], budget: str, args: Namespace) -> dict[str, Any]:
    """Make the runs of a cell; attack the first, and beside it the students of the others."""
    run, *others = (attacked_run(name, args.runs) for name in runs)
    report = inversion(run, budget=budget, beside=others, say=partial(print, flush=True))
    print(inversion_text(report))
    if args.picture:
        picture = f"reconstructions-{report['headline_attack']}.png"
        with Image.open(run.private / "attacks" / "inversion" / picture) as image:
            small = image.convert("L").quantize(32)
        small.save(ROOT / "docs" / "pictures" / f"inversion-{cell}.png", optimize=True)
    return {"answers": run.report()["answers"], "report": report}


def attacked_run(name: str, runs: Path) -> Run:
    """The finished run of this name; made, or resumed, where it is missing."""
    path = runs / name
    if (path / "private" / "report.json").is_file():
        return open_run(path)
    config, changes = RUNS[name]
    loaded = dpsd.load_config(
        ROOT / "configs" / config, [*changes, f"teacher.root={runs / 'teachers'}"]
    )
    return dpsd.transcribe(loaded, out=path, resume=path.exists(), data_is_public=True)
