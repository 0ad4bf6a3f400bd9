"""The attacked models, and the baselines, which show what an attack finds where nothing is.

All models are white boxes: float images in, logits out, with gradient. No answer of these models is
charged or reaches a release. The noise-free student gets a run folder of its own below `private/`
and learns from a copy of the teacher's folder, so that the teacher's ledger does not change.
"""

import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpsd.attacks.context import Attack
from dpsd.attacks.extraction.copying import copied
from dpsd.attacks.profiles import Profile
from dpsd.config import Config
from dpsd.config.sections import PrivacyConfig, TeacherConfig
from dpsd.console import show_epsilon
from dpsd.data.load import Split
from dpsd.device import pick_device, pick_dtype
from dpsd.errors import UserError
from dpsd.files import whole_file, write_json
from dpsd.imports import brief
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.frozen import Teacher, logits_of
from dpsd.models.networks import as_input, build_model
from dpsd.privacy.plan import make_plan
from dpsd.runs.folder import Run
from dpsd.runs.release import load_student, release_folder
from dpsd.teachers.folder import TeacherFolder, read_folder
from dpsd.teachers.teacher import ensure_teacher, frozen_teacher, teacher_recipe
from dpsd.transcription.transcribe import transcribe

Logits = Callable[[Tensor], Tensor]

_WHAT = {
    "teacher": "the run's own teacher",
    "student": "the released student",
    "noise_free": "a student of the same recipe from the teacher's open answers (eps infinite)",
    "control": "an undefended model of the student's architecture, stopped at its accuracy",
    "untrained": "fresh weights",
    "permuted": "trained on the same images with labels shuffled over the rows",
}
_CONTROL_STEPS = 4000
_PERMUTED_STEPS = 300


@dataclass(frozen=True)
class Target:
    """One model as an attacker holds it."""

    name: str
    logits: Logits
    """float [B, C, H, W] in [0, 1] -> float32 logits [B, K], with gradient."""
    accuracy: float
    """Share of the profile's holdout rows that it classifies correctly: a private figure."""
    what: str
    """What the model is, for readers of a report."""


def load_targets(
    context: Attack,
    profile: Profile,
    folder: Path,
    *,
    answers: int,
    beside: Sequence[Run] = (),
    clones: int | None = None,
) -> list[Target]:
    """Teacher, students, noise-free student, utility-matched control, and the baselines.

    A run whose teachers are an ensemble, were trained by DP-SGD or are the clients' of a federation
    has no undefended teacher. Then `teacher` is one model of the student's architecture, trained on
    the same rows without defence.

    Args:
        context: of the attack; its seed is that of the models made here.
        profile: the run's data.
        folder: private; keeps the models that are made here.
        answers: at most so many for the noise-free student.
        beside: other runs of the same split, whose students are attacked too.
        clones: copies of teacher and student by so many questions about public images, which are
            attacked too; None: no copies.

    Raises:
        UserError: no student, no teacher, a teacher that gives no gradient, or a run beside this
            one that is of other data or has the name of another.
    """
    run, seed = context.run, context.seed
    student = load_student(run)
    others = _beside(run, beside)
    folder.mkdir(parents=True, exist_ok=True)
    what = _WHAT | {name: f"the student of another run, {guarantee_line(guarantee(other))}"
                    for name, other in others.items()}  # fmt: skip
    config, home = context.find_teacher()
    recipe = _recipe(profile, home)
    if home is None or home.kind in ("ensemble", "dp_sgd"):
        context.say("the run has no undefended teacher of its own; one is trained for comparison")
        config, home = _reference(profile, folder)
        what["teacher"] = "an undefended model of the student's architecture on the same rows"
    context.say("making the noise-free student, control and baselines where they are missing")
    models: dict[str, nn.Module] = {
        "teacher": _Open(frozen_teacher(config, home)),
        "student": student,
        **{name: load_student(other) for name, other in others.items()},
        "noise_free": _noise_free(profile, config, home, folder, answers),
    }
    holdout = profile.private.holdout
    reached = accuracy(_as_logits(student, profile), holdout)
    models["control"] = _kept(
        folder / f"control-{seed}.safetensors", profile, seed,
        lambda: _control(profile, recipe, reached, seed),
    )  # fmt: skip
    models["untrained"] = _fresh(profile, seed).eval()
    models["permuted"] = _kept(
        folder / f"permuted-{seed}.safetensors",
        profile,
        seed,
        lambda: _permuted(profile, recipe, seed),
    )
    for name in ("teacher", "student") if clones is not None else ():
        models[f"clone of {name}"] = _clone(models[name], profile, folder, clones or 0, name, seed)
        what[f"clone of {name}"] = f"a copy by {clones:,} questions about images of public classes"
    targets = []
    for name, model in models.items():
        logits = _as_logits(model, profile)
        _check_gradient(name, logits, profile)
        targets.append(Target(name, logits, accuracy(logits, holdout), what[name]))
    return targets


def guarantee(run: Run) -> dict[str, Any]:
    """Unit, mechanism, epsilon and delta that a run's statement claims."""
    privacy = run.report()["privacy"]
    return {k: privacy[k] for k in ("unit", "mechanism", "epsilon", "delta")}


def guarantee_line(g: dict[str, Any]) -> str:
    """`guarantee` in words, with its unit."""
    if g["epsilon"] is None:
        return f"no guarantee (mechanism {g['mechanism']})"
    return (
        f"eps {show_epsilon(g['epsilon'])} for one {g['unit']} at delta {g['delta']:g} "
        f"({g['mechanism']})"
    )


def student_of(run: Run) -> str:
    """The name, among the targets, of the student of another run, after that run's folder."""
    return f"student of {run.path.resolve().name}"


def _beside(run: Run, beside: Sequence[Run]) -> dict[str, Run]:
    """The other runs by the name of their student."""
    mine, students = run.config.data, dict[str, Run]()
    for other in beside:
        release_folder(other)
        data, name = other.config.data, student_of(other)
        if (data.name, data.split) != (mine.name, mine.split):
            raise UserError(
                f"beside: {other.path} is of {data.name} with other private classes or rows; "
                f"accepted: a run of {mine.name} made with the same data.split"
            )
        if other.id == run.id or name in students:
            raise UserError(
                f"beside: {other.path} is there twice or shares its folder's name; accepted: "
                "other runs, each folder named once"
            )
        students[name] = other
    return students


def accuracy(logits: Logits, split: Split) -> float:
    """Share of rows whose most probable class is the label."""
    with torch.no_grad():
        hits = [
            logits(as_input(x)).argmax(1).cpu() == y
            for x, y in zip(split.images.split(512), split.labels.split(512), strict=True)
        ]
    return float(torch.cat(hits).double().mean())


def _check_gradient(name: str, logits: Logits, profile: Profile) -> None:
    x = torch.zeros(2, *profile.facts.shape, requires_grad=True)
    try:
        torch.autograd.grad(logits(x).sum(), x)
    except Exception as e:
        raise UserError(
            f"{name}: gives no gradient ({brief(e)}); inversion is a white-box attack and needs a "
            "differentiable model"
        ) from e


class _Open(nn.Module):
    """A teacher with gradients: float images in [0, 1] in."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, x: Tensor) -> Tensor:
        t = self.teacher
        z = logits_of(t.model((x.expand(-1, t.in_channels, -1, -1) - t.mean) / t.std))
        if t.classes == 2 and z.numel() == len(x):
            z = torch.stack([torch.zeros_like(z), z], 1).flatten(1)
        return z


def _as_logits(model: nn.Module, profile: Profile) -> Logits:
    device = pick_device(profile.config.device)
    dtype = pick_dtype(profile.config.precision, device)
    ready = model.to(device).to(memory_format=torch.channels_last).requires_grad_(False)

    def logits(x: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            out: Tensor = ready(x.to(device))
        return out.float()

    return logits


def _reference(profile: Profile, folder: Path) -> tuple[Config, TeacherFolder]:
    """An undefended teacher of the student's architecture, on all of the private training rows."""
    teacher = TeacherConfig(model=profile.config.student.model, root=folder / "teachers")
    config = profile.config.model_copy(update={"teacher": teacher})
    return config, ensure_teacher(config, lambda text: None)


def _noise_free(
    profile: Profile, config: Config, home: TeacherFolder, folder: Path, answers: int
) -> nn.Module:
    """A student of the same recipe, which learned from the teacher's open probabilities."""
    rounds, planned = config.loop.rounds, make_plan(profile.config).answers
    asked = max(1, min(planned, answers) // rounds) * rounds
    path = folder / f"noise_free-{asked}"
    if not (path / "private" / "report.json").is_file():
        shutil.rmtree(path, ignore_errors=True)
        privacy = PrivacyConfig(
            route="none", unit="none", mechanism="none", epsilon=None, answers=asked
        )
        loop = config.loop.model_copy(update={"queries_per_round": None})
        plain = config.model_copy(update={"privacy": privacy, "loop": loop})
        transcribe(plain, out=path, home=_copied(home, folder / "teacher"))
    return load_student(path)


def _copied(home: TeacherFolder, folder: Path) -> TeacherFolder:
    """The same weights under another UUID, an empty ledger, and no data set to charge."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    weights = home.path / "weights.safetensors"
    if weights.is_file():
        shutil.copyfile(weights, folder / weights.name)
    facts = {k: v for k, v in home.facts.items() if k != "dataset"}
    write_json(folder / "teacher.json", facts | {"uuid": str(uuid.uuid4())})
    return read_folder(folder)


def _kept(path: Path, profile: Profile, seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """A model of the student's architecture, read from its file, else made and written there."""
    with suppress(Exception):  # a missing or damaged file is replaced
        model = _fresh(profile, 0)
        model.load_state_dict(load_file(path))
        return model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().eval()
    with whole_file(path) as partial:
        save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, partial)
    return model


def _fresh(profile: Profile, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(profile.config.student.model, profile.facts.shape, profile.facts.classes)


def _clone(
    model: nn.Module, profile: Profile, folder: Path, questions: int, name: str, seed: int
) -> nn.Module:
    logits = _as_logits(model, profile)

    def make() -> nn.Module:
        return copied(
            lambda images: logits(as_input(images)).softmax(1).cpu(), profile.facts,
            profile.public.images[:], questions, model=profile.config.student.model, seed=seed,
        )  # fmt: skip

    return _kept(folder / f"clone-{name}-{questions}-{seed}.safetensors", profile, seed, make)


def _recipe(profile: Profile, home: TeacherFolder | None) -> FitRecipe:
    """How the run's teacher was trained; by the configuration where its folder does not say.

    Of an ensemble's recipe only the augmentation applies to a single model.
    """
    plain = home is not None and home.kind == "plain"
    read = ("epochs", "batch_size", "lr", "augment") if plain else ("augment",)
    known = {} if home is None else {k: v for k, v in home.recipe.items() if k in read}
    config = profile.config.teacher.model_copy(update=known)
    return teacher_recipe(config, len(profile.private.train))


def _control(profile: Profile, recipe: FitRecipe, reached: float, seed: int) -> nn.Module:
    """Trained on the teacher's rows, stopped where it first gets `reached` of the holdout right."""
    model = _fresh(profile, seed).to(pick_device(profile.config.device))
    holdout = profile.private.holdout

    def stop(step: int) -> bool:
        if step % (5 if step < 100 else 50):
            return False
        model.eval()
        enough = accuracy(lambda x: model(x.to(next(model.parameters()).device)), holdout)
        model.train()
        return enough >= reached

    train = profile.private.train
    fit(model, train.images, train.labels, _at_most(recipe, _CONTROL_STEPS), stop=stop)
    return model


def _permuted(profile: Profile, recipe: FitRecipe, seed: int) -> nn.Module:
    """Trained on the teacher's images with labels that were shuffled over the rows."""
    train = profile.private.train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    model = _fresh(profile, seed).to(pick_device(profile.config.device))
    fit(model, train.images, train.labels[order], _at_most(recipe, _PERMUTED_STEPS))
    return model


def _at_most(recipe: FitRecipe, steps: int) -> FitRecipe:
    return replace(recipe, steps=min(recipe.steps, steps))
