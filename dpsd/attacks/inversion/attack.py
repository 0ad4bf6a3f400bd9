"""Model inversion: search for the images that a model takes for a private class.

Every target is searched with the same priors, steps, draws and seeds. The attack yields scores,
`dpsd.attacks.inversion.report` turns them into numbers; the two steps share nothing but
`scores.npz`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dpsd.attacks.inversion.gan import GanConfig
from dpsd.attacks.inversion.judges import Judges, need_judges, train_classifier, train_judges
from dpsd.attacks.inversion.kedmi import kedmi_prior
from dpsd.attacks.inversion.lomma import helpers, logit_loss
from dpsd.attacks.inversion.memorisation import Pools, equal_pools, nearest, pool_distances
from dpsd.attacks.inversion.priors import Prior, gan_prior, released_prior, smooth_prior
from dpsd.attacks.inversion.scores import Cell, InversionScores
from dpsd.attacks.inversion.search import BUDGETS, Budget, search
from dpsd.attacks.inversion.targets import Logits, Target, guarantee, load_targets, student_of
from dpsd.attacks.profiles import Profile, load_profile, own_teacher
from dpsd.attacks.store import Arrays, attack_folder, kept
from dpsd.console import Say
from dpsd.data.load import Split
from dpsd.runs.folder import Run

DRAWS = "draws"
"""The name, among the targets, of random draws from the prior."""
_POOL_SIZE = 200
PriorOf = Callable[[Target | None], Prior]
"""The prior for a target; None stands for random draws."""


def attack(
    run: Run,
    *,
    budget: str | None = None,
    seed: int = 0,
    out: Path | None = None,
    profile: str | None = None,
    teacher: Path | None = None,
    data: Path | None = None,
    beside: Sequence[Run] = (),
    say: Say = lambda text: None,
) -> Path:
    """Attack a run's teacher and student, and what they are compared with; write `scores.npz`.

    A stopped attack goes on where it was: each attack on each target is kept as soon as it is done.

    Args:
        run: finished, made with `data.split`.
        budget: fast | standard | full; default: `attacks.budget` of the run.
        seed: of the first of the budget's seeds.
        out: private folder; default: `private/attacks/inversion` of the run.
        profile: the split that the run must have been made with; default: `attacks.profile`.
        teacher: the teacher's folder where it has been moved.
        data: another `data.root`.
        beside: other runs of the same split, whose students are attacked in the same way; teacher,
            noise-free student, control and the released synthesizer are this run's.
        say: receives lines for the user.

    Returns:
        The folder.

    Raises:
        UserError: no student, no split, another teacher or split, missing data or packages.
    """
    name = budget or run.config.attacks.budget
    b = BUDGETS[name]
    need_judges()
    known = load_profile(run, data, profile)
    began = time.perf_counter()
    folder = out or attack_folder(run, "inversion")
    say(f"inversion, budget {name}: {_budget_line(b, known)}")
    targets = load_targets(
        run, known, folder / "models", answers=b.noise_free_answers, seed=seed, teacher=teacher,
        beside=beside, say=say,
    )  # fmt: skip
    others = {student_of(other): other.id for other in beside}
    made = time.perf_counter()
    private = known.private
    used = _architectures(run, beside, teacher)  # which decides what network J1 is
    judges = train_judges(used, private.holdout, known.real, steps=b.judge_steps, seed=seed)
    say(f"judges on real private images: J1 {judges.network_accuracy:.1%}, "
        f"J2 {judges.neighbours_accuracy:.1%}")  # fmt: skip
    pools = equal_pools(private, _POOL_SIZE, seed)
    cells: dict[tuple[str, str], Cell] = {}
    costs: dict[str, Any] = {}
    for attack_name in b.attacks:
        start = time.perf_counter()
        prior_of, cached = _prior(attack_name, run, known, b, seed, targets[0])
        prior_seconds = time.perf_counter() - start
        for target in [None, *targets]:
            label = DRAWS if target is None else target.name
            key = _key(run, known, b, seed, attack_name, others.get(label, label), used)
            path = folder / "cells" / f"{attack_name}-{label}.npz"
            search_cell = partial(
                _cell, attack_name, prior_of, target, known, judges, pools, b, seed
            )
            cell = cells[attack_name, label] = Cell(**kept(path, key, search_cell))
            say(f"{attack_name} on {label}: {float(cell.seconds):.1f} s")
        searched = sum(float(c.seconds) for (a, _), c in cells.items() if a == attack_name)
        costs[attack_name] = {
            "prior_seconds": prior_seconds, "prior_from_cache": cached, "search_seconds": searched,
        }  # fmt: skip
    held_psnr, held_ssim = nearest(pools.held.flatten(0, 1), _pool_labels(pools), pools)
    facts = {
        "profile": known.name,
        "classes": list(known.facts.class_names),
        "budget_name": name,
        "budget": asdict(b),
        "seed": seed,
        "images_per_target": b.seeds * b.per_class(known.facts.classes) * known.facts.classes,
        "gradient_queries_per_image": b.steps,
        "pool_images_per_class": int(pools.train.shape[1]),
        "targets": {t.name: {"accuracy_holdout": t.accuracy, "what": t.what} for t in targets},
        "noise_free_answers": min(b.noise_free_answers, _answers(run)),
        "judges": {
            "network": judges.network_accuracy,
            "neighbours": judges.neighbours_accuracy,
            "both": judges.both_accuracy,
            "measured_on": "train" if private.test is None else "test",
            "rows": len(known.real),
        },
        "guarantee": guarantee(run),
        "costs": costs,
        "seconds": {"models": made - began, "all": time.perf_counter() - began},
    }
    real = pools.train[:, 0].numpy()
    InversionScores(cells, held_psnr.numpy(), held_ssim.numpy(), real, facts).save(folder)
    return folder


def _prior(
    name: str, run: Run, profile: Profile, b: Budget, seed: int, teacher: Target
) -> tuple[PriorOf, bool]:
    """The prior for each target, and whether it was found in the cache."""
    public, cached = profile.public.images, False
    if name == "kedmi":
        config, classes = GanConfig(b.kedmi_steps, seed=seed), profile.facts.classes
        # Random draws come from the prior that knows most, the teacher's.
        return lambda target: kedmi_prior(
            (target or teacher).logits, public, classes, config
        ), False
    if name == "total_variation":
        prior = smooth_prior(public)
    elif name in ("gmi", "lomma"):
        cache = run.config.attacks.cache or run.teacher_folder.parent / "priors"
        prior, cached = gan_prior(public, GanConfig(b.gan_steps), cache)
    else:
        prior = released_prior(run, b.pool)
    return lambda target: prior, cached


def _cell(
    name: str, prior_of: PriorOf, target: Target | None, profile: Profile, judges: Judges,
    pools: Pools, b: Budget, seed: int,
) -> Arrays:  # fmt: skip
    """Search with every seed, then let judges, distances and a student of the images speak."""
    classes = profile.facts.classes
    labels = torch.arange(classes).repeat_interleave(b.per_class(classes))
    began = time.perf_counter()
    prior = prior_of(target)
    models: list[Logits] = [] if target is None else [target.logits]
    if target is not None and name == "lomma":
        models += helpers(target.logits, profile.public.images, classes, count=b.helpers,
                          steps=b.helper_steps, seed=seed)  # fmt: skip
    loss = logit_loss if name == "lomma" else F.cross_entropy
    images = [
        search(prior, models, labels, b, torch.Generator().manual_seed(seed + i), loss)
        for i in range(b.seeds)
    ]
    seconds = time.perf_counter() - began
    found, wanted = torch.cat(images), labels.repeat(b.seeds)
    if target is None:
        believed = torch.full((len(found),), float("nan"))
    else:
        with torch.no_grad():
            parts = [target.logits(x.float() / 255).softmax(1).cpu() for x in found.split(512)]
        believed = torch.cat(parts)[torch.arange(len(found)), wanted]
    likeness = nearest(found, wanted, pools)
    knowledge = [
        _knowledge(Split(part, labels), profile, b.knowledge_steps, seed + i)
        for i, part in enumerate(images)
    ]
    return Cell(
        images=found.numpy(),
        labels=wanted.numpy(),
        seeds=np.repeat(np.arange(seed, seed + b.seeds), len(labels)),
        confidence=believed.numpy(),
        network=judges.network(found).numpy(),
        neighbours=judges.neighbours(found).numpy(),
        distances=pool_distances(found, wanted, pools).numpy(),
        psnr=likeness[0].numpy(),
        ssim=likeness[1].numpy(),
        knowledge=np.stack(knowledge),
        seconds=np.array(seconds),
    ).arrays()


def _knowledge(split: Split, profile: Profile, steps: int, seed: int) -> Any:
    """Accuracy by class on real private images of a network that saw reconstructions alone, [K]."""
    shape, classes = profile.facts.shape, profile.facts.classes
    model = train_classifier(split, "cnn-tiny", shape, classes, steps=steps, seed=seed)
    real = profile.real
    with torch.inference_mode():
        parts = [model(x.float() / 255).argmax(1) for x in real.images.split(512)]
    hits = (torch.cat(parts) == real.labels).float()
    return np.stack([float(hits[real.labels == c].mean()) for c in range(classes)])


def _pool_labels(pools: Pools) -> Tensor:
    classes, size = pools.held.shape[:2]
    return torch.arange(classes).repeat_interleave(size)


def _key(
    run: Run, profile: Profile, b: Budget, seed: int, attack_name: str, target: str, used: set[str]
) -> str:
    what = [run.id, run.teacher, profile.name, asdict(b), seed, attack_name, target, sorted(used)]
    return hashlib.blake2b(json.dumps(what).encode(), digest_size=16).hexdigest()


def _architectures(run: Run, beside: Sequence[Run], teacher: Path | None) -> set[str]:
    """Those of teacher and students, by their names in the configuration."""
    _, home = own_teacher(run, run.config, teacher)
    recipe = (home.facts.get("recipe") or {}) if home is not None else {}
    named = {r.config.student.model for r in (run, *beside)}
    return named | {recipe.get("model", run.config.teacher.model)}


def _answers(run: Run) -> int:
    return int(run.report()["answers"])


def _budget_line(b: Budget, profile: Profile) -> str:
    classes = profile.facts.classes
    each = b.per_class(classes)
    return (
        f"{', '.join(b.attacks)}; for every target {b.seeds * each * classes} images ({classes} "
        f"classes, {each} each, {b.seeds} seeds), {b.draws} draws and {b.steps} gradient steps each"
    )
