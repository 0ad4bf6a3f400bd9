"""What answers without noise teach on as many images as the noisy ones are worth: unit one answer.

MNIST, Gaussian, eps 1 per answer: an answer carries (1 - 1/K) / (2 sigma^2) nats about a class of
which nothing is known (sigma: of the noise in each of the K coordinates; small signals, Cover and
Thomas, section 9.2). So all answers are worth at the most so many clean labels of log K nats.
Here `cnn-small` learns from that many: the teacher's class, or all of its probabilities, for
images of strokes. If it then knows more than the noisy run's student, the estimator loses, not the
mechanism. By Fisher information a noisy answer is worth p (1 - p) 2 / sigma^2 of a clean label
about a class that the student holds for p likely: nothing once the student is sure.
"""

import math
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench_tables.cells import config_hash, configure, main_cells
from bench_tables.jobs import RESULTS, Job
from dpsd.config import Config
from dpsd.data.load import load_data
from dpsd.generator.synthesizer import Synthesizer, Undecided
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.networks import build_model
from dpsd.privacy.mechanisms.gaussian import Gaussian
from dpsd.privacy.plan import make_plan
from dpsd.teachers.teacher import accuracy, ensure_teacher, load_teacher

BASE = "mnist-gaussian-eps1"
_STEPS, _BATCH, _LR = 1000, 128, 0.003
_AUGMENT = ("none",)


def jobs(args: Namespace) -> Iterator[Job]:
    """One file: labels and probabilities."""
    config = configure(main_cells()[BASE], 0, args.teachers)
    facts = {"base": BASE, "config_hash": config_hash(config), "seed": 0}
    path = RESULTS / "clean-labels.json"
    yield Job(path, facts, partial(measure, config, _STEPS // args.shrink))


def worth(config: Config) -> dict[str, float]:
    """Nats of one answer about an unknown class, and clean labels that all answers are worth."""
    plan = make_plan(config)
    assert isinstance(plan.mechanism, Gaussian)
    k, sigma = plan.facts.classes, plan.mechanism.sigma
    nats = (1 - 1 / k) / (2 * sigma**2)
    return {
        "sigma": sigma, "nats_per_answer": nats,
        "clean_labels": plan.answers * nats / math.log(k),
        "fisher_share_at_half": 0.5 / sigma**2, "fisher_share_at_99": 0.0198 / sigma**2,
    }  # fmt: skip


def measure(config: Config, steps: int) -> dict[str, Any]:
    """Train a model for each kind of answer and read the test rows once for each.

    Nothing is chosen by them.
    """
    start = time.perf_counter()
    found = worth(config)
    labels = math.floor(found["clean_labels"])
    ask = load_teacher(config, ensure_teacher(config, print))
    images = Synthesizer(_plain(config), config.facts, torch.device("cpu")).sample(
        labels, Undecided(config.facts.classes)
    )
    with torch.inference_mode():
        answers = torch.cat([ask(x).softmax(1) for x in images.split(512)])
    test = load_data(config.data).test
    assert test is not None
    reached = {}
    for kind, targets in (("class", answers.argmax(1)), ("probabilities", answers)):
        for augment in _AUGMENT:
            model = trained(config, images, targets, steps, augment)
            reached[f"{kind}, augment {augment}"] = accuracy(_asked(model), test)
            print(kind, augment, reached[f"{kind}, augment {augment}"], flush=True)
    return found | {
        "unit": "answer", "images": labels, "rows": len(test), "steps": steps,
        "shares": answers.argmax(1).bincount(minlength=answers.shape[1]).tolist(),
        "accuracy": reached, "seconds": time.perf_counter() - start,
    }  # fmt: skip


def trained(
    config: Config, images: Tensor, targets: Tensor, steps: int, augment: str
) -> torch.nn.Module:
    """The student's architecture, trained on images uint8 [N, C, H, W] and labels or [N, K]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config.student.model, config.facts.shape, config.facts.classes)
        fit(model, images, targets, FitRecipe(steps, _BATCH, _LR, augment))
    return model


def _plain(config: Config) -> Config:
    """The configuration with one candidate an image."""
    return config.model_copy(
        update={"generator": config.generator.model_copy(update={"select": 1})}
    )


def _asked(model: torch.nn.Module) -> Any:
    @torch.inference_mode()
    def ask(images: Tensor) -> Tensor:
        return model(images.float() / 255)  # type: ignore[no-any-return]

    return ask
