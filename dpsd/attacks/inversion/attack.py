"""Model inversion: search for the images that a model takes for a private class.

Every target is searched with the same priors, steps, draws and seeds. The search leaves
`scores.npz`; `dpsd.attacks.inversion.report` computes all figures from that file alone.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dpsd.attacks.context import Attack
from dpsd.attacks.inversion.gan import GanConfig
from dpsd.attacks.inversion.judges import Judges, need_judges, train_classifier, train_judges
from dpsd.attacks.inversion.kedmi import kedmi_prior
from dpsd.attacks.inversion.lomma import logit_loss, surrogates
from dpsd.attacks.inversion.memorisation import Pools, equal_pools, nearest, pool_distances
from dpsd.attacks.inversion.pictures import write_pictures
from dpsd.attacks.inversion.priors import ImagePrior, gan_prior, released_prior, smooth_prior
from dpsd.attacks.inversion.report import analyse
from dpsd.attacks.inversion.scores import Cell, InversionScores
from dpsd.attacks.inversion.search import BUDGETS, Budget, search
from dpsd.attacks.inversion.targets import Logits, Target, guarantee, load_targets, student_of
from dpsd.attacks.profiles import Profile, load_profile
from dpsd.attacks.store import Arrays, kept
from dpsd.console import percent, track
from dpsd.data.load import Split
from dpsd.data.rows import in_memory
from dpsd.runs.folder import Run

NAME = "inversion"
DRAWS = "draws"
"""The name, among the targets, of random draws from the prior."""
_POOL_SIZE = 200
PriorOf = Callable[[Target | None], ImagePrior]
"""The prior for a target; None stands for random draws."""


@dataclass(frozen=True)
class Setting:
    """What is the same for every attack on every target.

    Attributes:
        context: run and seed.
        budget: what each target is attacked with.
        profile: the run's data.
        judges: of the reconstructions.
        pools: of training and held-out images, for the memorisation gap.
        architectures: of the attacked models; they decide which network judge J1 is.
    """

    context: Attack
    budget: Budget
    profile: Profile
    judges: Judges
    pools: Pools
    architectures: set[str]


def attack(
    context: Attack,
    *,
    profile: str | None = None,
    beside: Sequence[Run] = (),
    clones: int | None = None,
) -> dict[str, Any]:
    """Attack teacher, student and what they are compared with; write scores, report and pictures.

    Args:
        context: of a finished run that was made with `data.split`.
        profile: the split that the run must have been made with; default: `attacks.profile`.
        beside: other runs of the same split, whose students are attacked in the same way; teacher,
            noise-free student, control and the released synthesizer are this run's.
        clones: attack copies of teacher and student too, made by so many questions.

    Returns:
        The report.

    Raises:
        UserError: an unknown budget, no student, no split, another teacher or split, missing data,
            packages or scores.
    """
    folder = context.folder(NAME)
    if not context.analyse_only:
        search_targets(context, folder, profile, beside, clones).save(folder)
    report = analyse(folder)
    write_pictures(folder)
    return report


def search_targets(
    context: Attack,
    folder: Path,
    profile: str | None,
    beside: Sequence[Run],
    clones: int | None = None,
) -> InversionScores:
    """Run every attack of the budget on every target. Arguments and errors as in `attack`.

    A stopped attack resumes: `folder/cells` keeps each attack on each target once it is finished.
    """
    began, seed = time.perf_counter(), context.seed
    b = context.spend(BUDGETS)
    need_judges()
    known = load_profile(context, profile)
    context.say(f"inversion, budget {context.budget_name}: {_budget_line(b, known)}")
    targets = load_targets(
        context, known, folder / "models", answers=b.noise_free_answers, beside=beside,
        clones=clones,
    )  # fmt: skip
    models_seconds = time.perf_counter() - began
    used = _architectures(context, beside)
    judges = train_judges(used, known.private.holdout, known.real, steps=b.judge_steps, seed=seed)
    first, second = percent(judges.network_accuracy, 1), percent(judges.neighbours_accuracy, 1)
    context.say(f"judges on real private images: J1 {first}, J2 {second}")
    pools = equal_pools(known.private, _POOL_SIZE, seed)
    setting = Setting(context, b, known, judges, pools, used)
    others = {student_of(other): other.id for other in beside}
    cells: dict[tuple[str, str], Cell] = {}
    costs: dict[str, Any] = {}
    for name in b.attacks:
        searched, costs[name] = _search_with(setting, name, targets, others, folder / "cells")
        cells |= {(name, target): cell for target, cell in searched.items()}
    held_psnr, held_ssim = nearest(pools.held.flatten(0, 1), _pool_labels(pools), pools)
    facts = _facts(setting, targets) | {"guarantee": guarantee(context.run), "costs": costs}
    facts["seconds"] = {"models": models_seconds, "all": time.perf_counter() - began}
    real = pools.train[:, 0].numpy()
    return InversionScores(cells, held_psnr.numpy(), held_ssim.numpy(), real, facts)


def _search_with(
    setting: Setting, name: str, targets: Sequence[Target], others: dict[str, str], folder: Path
) -> tuple[dict[str, Cell], dict[str, Any]]:
    """One attack on random draws and on all targets: its cells and what they cost."""
    start = time.perf_counter()
    prior_of, cached = _prior(setting, name, targets[0])
    prior_seconds = time.perf_counter() - start
    cells = {}
    for target in track([None, *targets], f"{name}: targets"):
        label = DRAWS if target is None else target.name
        key = _key(setting, name, others.get(label, label))
        path = folder / f"{name}-{label}.npz"
        cell = Cell(**kept(path, key, partial(_cell, setting, name, prior_of, target)))
        cells[label] = cell
        setting.context.say(f"{name} on {label}: {float(cell.seconds):.1f} s")
    return cells, {
        "prior_seconds": prior_seconds,
        "prior_from_cache": cached,
        "search_seconds": sum(float(cell.seconds) for cell in cells.values()),
    }


def _prior(setting: Setting, name: str, teacher: Target) -> tuple[PriorOf, bool]:
    """The prior for each target, and whether the cache held it."""
    b, run, cached = setting.budget, setting.context.run, False

    def public() -> Tensor:
        return in_memory(setting.profile.public.images, f"attack {name}")

    if name == "kedmi":
        config, images = GanConfig(b.kedmi_steps, seed=setting.context.seed), public()
        classes = setting.profile.facts.classes
        # Random draws come from the prior that knows most, the teacher's.
        return lambda target: kedmi_prior(
            (target or teacher).logits, images, classes, config
        ), False
    if name == "total_variation":
        prior = smooth_prior(public())
    elif name in ("gmi", "lomma"):
        cache = run.config.attacks.cache or run.teacher_folder.parent / "priors"
        prior, cached = gan_prior(public(), GanConfig(b.gan_steps), cache)
    else:
        prior = released_prior(run, b.pool)
    return lambda target: prior, cached


def _cell(setting: Setting, name: str, prior_of: PriorOf, target: Target | None) -> Arrays:
    """Search with every seed, then measure the reconstructions."""
    b, seed, classes = setting.budget, setting.context.seed, setting.profile.facts.classes
    labels = torch.arange(classes).repeat_interleave(b.per_class(classes))
    began = time.perf_counter()
    prior = prior_of(target)
    models: list[Logits] = [] if target is None else [target.logits]
    if target is not None and name == "lomma":
        public = in_memory(setting.profile.public.images, f"attack {name}")
        models += surrogates(target.logits, public, classes, count=b.helpers,
                             steps=b.helper_steps, seed=seed)  # fmt: skip
    loss = logit_loss if name == "lomma" else F.cross_entropy
    images = [
        search(prior, models, labels, b, torch.Generator().manual_seed(seed + i), loss)
        for i in range(b.seeds)
    ]
    seconds = time.perf_counter() - began
    every, wanted = torch.cat(images), labels.repeat(b.seeds)
    psnr, ssim = nearest(every, wanted, setting.pools)
    knowledge = [
        _knowledge(Split(part, labels), setting.profile, b.knowledge_steps, seed + i)
        for i, part in enumerate(images)
    ]
    return Cell(
        images=every.numpy(),
        labels=wanted.numpy(),
        seeds=np.repeat(np.arange(seed, seed + b.seeds), len(labels)),
        confidence=_confidence(target, every, wanted).numpy(),
        network=setting.judges.network(every).numpy(),
        neighbours=setting.judges.neighbours(every).numpy(),
        distances=pool_distances(every, wanted, setting.pools).numpy(),
        psnr=psnr.numpy(),
        ssim=ssim.numpy(),
        knowledge=np.stack(knowledge),
        seconds=np.array(seconds),
    ).arrays()


def _confidence(target: Target | None, images: Tensor, labels: Tensor) -> Tensor:
    """The target's probability of each image's label, float32 [R]; NaN for random draws."""
    if target is None:
        return torch.full((len(images),), float("nan"))
    with torch.no_grad():
        parts = [target.logits(x.float() / 255).softmax(1).cpu() for x in images.split(512)]
    return torch.cat(parts)[torch.arange(len(images)), labels]


def _knowledge(split: Split, profile: Profile, steps: int, seed: int) -> Any:
    """Accuracy by class on real private images of a network that saw reconstructions alone, [K]."""
    shape, classes = profile.facts.shape, profile.facts.classes
    model = train_classifier(split, "cnn-tiny", shape, classes, steps=steps, seed=seed)
    real = profile.real
    with torch.inference_mode():
        parts = [model(x.float() / 255).argmax(1) for x in real.images.split(512)]
    hits = (torch.cat(parts) == real.labels).float()
    return np.stack([float(hits[real.labels == c].mean()) for c in range(classes)])


def _facts(setting: Setting, targets: Sequence[Target]) -> dict[str, Any]:
    """What the report says of the setting."""
    context, b, known = setting.context, setting.budget, setting.profile
    classes, judges = known.facts.classes, setting.judges
    return {
        "profile": known.name,
        "classes": list(known.facts.class_names),
        "budget_name": context.budget_name,
        "budget": asdict(b),
        "seed": context.seed,
        "images_per_target": b.seeds * b.per_class(classes) * classes,
        "gradient_queries_per_image": b.steps,
        "pool_images_per_class": int(setting.pools.train.shape[1]),
        "targets": {t.name: {"accuracy_holdout": t.accuracy, "what": t.what} for t in targets},
        "noise_free_answers": min(b.noise_free_answers, int(context.run.report()["answers"])),
        "judges": {
            "network": judges.network_accuracy,
            "neighbours": judges.neighbours_accuracy,
            "both": judges.both_accuracy,
            "measured_on": "train" if known.private.test is None else "test",
            "rows": len(known.real),
        },
    }


def _pool_labels(pools: Pools) -> Tensor:
    classes, size = pools.held.shape[:2]
    return torch.arange(classes).repeat_interleave(size)


def _key(setting: Setting, name: str, target: str) -> str:
    """What a kept cell depends on, as a hash."""
    run, seed = setting.context.run, setting.context.seed
    what = [run.id, run.teacher, setting.profile.name, asdict(setting.budget), seed, name, target,
            sorted(setting.architectures)]  # fmt: skip
    return hashlib.blake2b(json.dumps(what).encode(), digest_size=16).hexdigest()


def _architectures(context: Attack, beside: Sequence[Run]) -> set[str]:
    """Those of teacher and students, by their names in the configuration."""
    _, home = context.find_teacher()
    recipe = home.recipe if home is not None else {}
    named = {run.config.student.model for run in (context.run, *beside)}
    return named | {recipe.get("model", context.config.teacher.model)}


def _budget_line(b: Budget, profile: Profile) -> str:
    classes = profile.facts.classes
    each = b.per_class(classes)
    return (
        f"{', '.join(b.attacks)}; for every target {b.seeds * each * classes} images ({classes} "
        f"classes, {each} each, {b.seeds} seeds), {b.draws} draws and {b.steps} gradient steps each"
    )
