"""Inversion from end to end on a tiny run, and its parts against what is known by hand."""

import json
import shutil
import stat
from dataclasses import replace

import numpy as np
import pytest
import torch
from products import contents, tiny_run
from safetensors.torch import load_file

from dpsd.attacks.context import Attack
from dpsd.attacks.inversion import search as searching
from dpsd.attacks.inversion import targets as targets_module
from dpsd.attacks.inversion.attack import Setting, _key, attack
from dpsd.attacks.inversion.gan import Critic, GanConfig, cached_gan, gradient_penalty
from dpsd.attacks.inversion.kedmi import discriminator_loss, kedmi_prior
from dpsd.attacks.inversion.lomma import logit_loss, surrogates
from dpsd.attacks.inversion.priors import ImagePrior, released_prior, smooth_prior, total_variation
from dpsd.attacks.inversion.report import advantage, analyse, inversion_report
from dpsd.attacks.inversion.scores import load_inversion_scores
from dpsd.attacks.inversion.search import BUDGETS, Budget, search
from dpsd.attacks.inversion.targets import _check_gradient, load_targets
from dpsd.attacks.inversion.text import inversion_text
from dpsd.attacks.profiles import Profile, load_profile, load_public_classes
from dpsd.cli import main
from dpsd.config import parse_config
from dpsd.data.load import load_data
from dpsd.errors import UserError
from dpsd.models import fit as fit_module
from dpsd.models.fit import FitRecipe
from dpsd.runs.folder import Run
from dpsd.teachers.folder import TeacherFolder
from dpsd.transcription.transcribe import transcribe

TINY = Budget(
    ("total_variation", "gmi", "released", "kedmi", "lomma"),
    seeds=2, images=10, draws=2, steps=2,
    gan_steps=2, pool=50, noise_free_answers=200, judge_steps=60,
    knowledge_steps=2, helpers=1, helper_steps=2, kedmi_steps=2,
)  # fmt: skip


def tree(root, **data):
    return {
        "device": "cpu", "precision": "float32", "data": data,
        "teacher": {"model": "cnn-small", "epochs": 1, "batch_size": 32,
                    "root": str(root / "teachers")},
        "loop": {"rounds": 2},
        "privacy": {"epsilon": 8.0, "answers": 400, "insecure_seeded_noise": True},
    }  # fmt: skip


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    root = tmp_path_factory.mktemp("inversion")
    run = transcribe(parse_config(tree(root, split="digits")), out=root / "run")
    before = contents(run.release), contents(run.teacher_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUDGETS, "fast", TINY)
        assert main(["attack", "inversion", str(run.path), "--fast"]) == 0
    return run, before


@pytest.fixture
def copy(attacked, tmp_path, monkeypatch):
    monkeypatch.setitem(BUDGETS, "fast", TINY)
    shutil.copytree(attacked[0].path, tmp_path / "run")
    return Run(tmp_path / "run")


def test_everything_lies_under_private_and_the_teachers_ledger_is_as_it_was(attacked):
    run, before = attacked
    assert before == (contents(run.release), contents(run.teacher_folder))
    folder = run.private / "attacks" / "inversion"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = {p.name for p in folder.iterdir() if p.is_file()}
    assert names == {"scores.npz", "report.json", "memorisation.png",
                     *(f"reconstructions-{a}.png" for a in TINY.attacks)}  # fmt: skip


def test_report_names_targets_baselines_budget_and_unit(attacked):
    found = json.loads((attacked[0].private / "attacks/inversion/report.json").read_text())
    assert (
        found["guarantee"]["unit"] == "answer" and found["guarantee"]["epsilon"] is None
    )  # seeded
    assert found["images_per_target"] == 5 * 2 * 2 and found["budget"]["steps"] == 2
    for a in found["attacks"].values():
        assert list(a["targets"]) == ["teacher", "student", "noise_free", "control"]
        assert set(a["floors"]) == {"draws", "untrained", "permuted"}
        assert {"prior_seconds", "search_seconds", "prior_from_cache"} == set(a["cost"])
        for row in a["targets"].values():
            low, high = row["advantage"]["both"]["interval"]
            assert -1 <= low <= high <= 1 and 0 < row["memorisation"]["p_value"] <= 1
    assert any("2 seeds" in note for note in found["notes"])


def test_the_attack_that_finds_most_is_named_beside_the_headline(attacked):
    found = json.loads((attacked[0].private / "attacks/inversion/report.json").read_text())
    for name, a in found["attacks"].items():
        value = {"lomma": 0.9, "kedmi": 0.95}.get(name, 0.1)
        a["power"] = name != "kedmi"  # finds more, and nothing in the teacher
        a["targets"]["student"]["advantage"]["both"] = {"value": value, "interval": [0.0, 0.95]}
    for headline, named in (("gmi", True), ("lomma", False)):
        found["headline_attack"] = headline
        found["headline"]["student"] = {"value": 0.1, "interval": [0.0, 0.2], "verdict": "leaks"}
        assert ("LOMMA finds most: +0.90 [+0.00" in inversion_text(found)) == named


def test_scores_alone_suffice_for_the_analysis(attacked, tmp_path):
    old = attacked[0].private / "attacks/inversion"
    shutil.copy(old / "scores.npz", tmp_path)
    assert analyse(tmp_path) == json.loads((old / "report.json").read_text())
    (tmp_path / "again").mkdir()
    load_inversion_scores(tmp_path).save(tmp_path / "again")
    assert inversion_report(load_inversion_scores(tmp_path / "again")) == analyse(tmp_path)


def test_a_stopped_attack_goes_on_and_gives_the_same(copy, monkeypatch):
    from dpsd.attacks.inversion import attack as inversion

    folder = copy.private / "attacks/inversion"
    old = load_inversion_scores(folder)
    (folder / "cells/gmi-student.npz").unlink()
    (folder / "cells/released-teacher.npz").write_bytes(b"damaged")
    (folder / "models/control-0.safetensors").write_bytes(b"")
    done = []
    monkeypatch.setattr(inversion, "search", lambda *a: (done.append(1), search(*a))[1])
    attack(Attack(copy, budget="fast"))
    assert len(done) == 2 * TINY.seeds
    new = load_inversion_scores(folder)
    for key, cell in old.cells.items():
        assert np.array_equal(cell.images, new.cells[key].images), key


def test_a_stopped_noise_free_student_is_made_anew_and_a_larger_one_beside_it(copy, monkeypatch):
    small = replace(TINY, attacks=("released",))
    monkeypatch.setitem(BUDGETS, "fast", small)
    models = copy.private / "attacks/inversion/models"
    (models / "noise_free-200/private/report.json").unlink()
    attack(Attack(copy, budget="fast"))
    monkeypatch.setitem(BUDGETS, "fast", replace(small, noise_free_answers=400))
    attack(Attack(copy, budget="fast"))
    for answers in (200, 400):
        report = json.loads((models / f"noise_free-{answers}/private/report.json").read_text())
        assert report["answers"] == answers


def test_students_of_other_runs_stand_in_the_same_table(attacked, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(BUDGETS, "fast", replace(TINY, attacks=("released",), draws=16))
    config = tree(tmp_path, split="digits")
    config["privacy"]["epsilon"] = 2.0
    other = transcribe(parse_config(config), out=tmp_path / "other")
    home = tmp_path / "run"
    shutil.copytree(attacked[0].path, home)
    assert main(["attack", "inversion", str(home), "--fast", "--beside", str(other.path)]) == 0
    found = json.loads((home / "private/attacks/inversion/report.json").read_text())
    name = "student of other"
    assert name in capsys.readouterr().out and "another run" in found["targets"][name]["what"]
    rows = found["attacks"]["released"]["targets"]
    assert list(rows) == ["teacher", "student", name, "noise_free", "control"]
    cells = load_inversion_scores(home / "private/attacks/inversion").cells
    assert (cells["released", name].images != cells["released", "student"].images).any()
    assert not (other.private / "attacks").exists()


def test_another_judge_judges_every_cell_anew(attacked):
    """A run beside this one may be of J1's architecture; then J1 is another network."""
    run = attacked[0]
    context = Attack(run)
    setting = Setting(context, TINY, load_profile(context), None, None, set())
    keys = [_key(replace(setting, architectures=used), "gmi", "teacher")
            for used in ({"cnn-small"}, {"cnn-small"}, {"cnn-small", "cnn-tiny"})]  # fmt: skip
    assert keys[0] == keys[1] != keys[2]


def test_runs_beside_must_be_of_the_same_split_and_finished(copy, tmp_path, capsys):
    def says(*beside):
        args = ["attack", "inversion", str(copy.path), "--fast", "--beside", *map(str, beside)]
        assert main(args) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "there twice" in says(copy.path)
    other = tmp_path / "other"
    shutil.copytree(copy.path, other)
    path = other / "private" / "run.json"
    facts = json.loads(path.read_text())
    split = facts["config"]["data"]["split"]
    facts["config"]["data"]["split"] = split | {"public": split["public"][1:]}
    path.write_text(json.dumps(facts))
    assert "other private classes or rows" in says(other)
    (other / "release" / "student.safetensors").unlink()
    assert "no finished run" in says(other)
    assert main(["attack", "membership", str(copy.path), "--beside", str(other)]) == 2
    assert "inversion alone" in capsys.readouterr().err


def test_public_data_puts_a_section_on_the_card_that_evaluate_keeps(copy, capsys):
    assert main(["attack", "inversion", str(copy.path), "--analyse-only", "--data-is-public"]) == 0
    card = (copy.release / "README.md").read_text()
    assert "## Inversion attacks" in card and "not records" in card
    assert main(["verify", str(copy.release)]) == 0
    from dpsd.runs.card import write_card

    write_card(copy, json.loads((copy.release / "statement.json").read_text()), None)
    assert "## Inversion attacks" in (copy.release / "README.md").read_text()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda run: (run.release / "student.safetensors").unlink(), "no finished run"),
        (lambda run: set_data(run, split=None), "data.split: null"),
    ],
)
def test_bad_runs_are_one_line(copy, capsys, edit, says):
    edit(copy)
    assert main(["attack", "inversion", str(copy.path), "--fast"]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def set_data(run, **fields):
    path = run.private / "run.json"
    facts = json.loads(path.read_text())
    facts["config"]["data"] |= fields
    path.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("fashion_mnist", "private classes [3, 6, 7, 8, 9], the run's models have [5, 6, 7, 8, 9]"),
        ("faces", "'faces' is unknown; accepted: att_faces"),
    ],
)
def test_other_profiles_are_refused(copy, capsys, profile, says):
    assert main(["attack", "inversion", str(copy.path), "--profile", profile]) == 2
    assert says in capsys.readouterr().err


def test_analysis_without_scores_is_one_line(copy, capsys):
    (copy.private / "attacks/inversion/scores.npz").unlink()
    assert main(["attack", "inversion", str(copy.path), "--analyse-only"]) == 2
    assert "run the attack before its analysis" in capsys.readouterr().err


def test_search_finds_the_class_of_a_linear_model():
    """Logits are the pixels themselves: the brightest of four pixels is the class."""
    prior = smooth_prior(torch.full((3, 1, 2, 2), 128, dtype=torch.uint8))
    labels = torch.arange(4).repeat(3)
    budget = replace(TINY, steps=60, draws=2)

    def logits(x):
        return 20 * x.flatten(1)

    images = search(prior, [logits], labels, budget, torch.Generator().manual_seed(0))
    assert torch.equal(images.flatten(1).argmax(1), labels)
    drawn = search(prior, [], labels, budget, torch.Generator().manual_seed(0))
    assert not torch.equal(drawn.flatten(1).argmax(1), labels)


def test_search_starts_from_the_draw_that_the_model_likes_best():
    start = torch.tensor([[0.1], [0.9], [0.4], [0.2]])
    prior = ImagePrior("x", lambda n, rng: start[:n], lambda p: p[:, :, None, None].clamp(0, 1),
                  lambda s, p, x: p.sum(1) * 0, weight=1.0, lr=1e-9)  # fmt: skip

    def logits(x):
        return torch.cat([x.flatten(1), 1 - x.flatten(1)], 1) * 10

    found = search(prior, [logits], torch.tensor([0, 1]), replace(TINY, draws=2, steps=1),
                   torch.Generator())  # fmt: skip
    assert found.flatten().tolist() == [round(0.9 * 255), round(0.2 * 255)]


def test_total_variation_by_hand():
    x = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
    assert float(total_variation(x)) == pytest.approx((0.5 + 0.5) / 2 + (1 + 0) / 2)


def test_gradient_penalty_of_a_linear_critic():
    weights = torch.randn(12, generator=torch.Generator().manual_seed(0))
    real, fake = torch.rand(2, 5, 3, 2, 2)
    found = gradient_penalty(lambda x: x.flatten(1) @ weights, real, fake, torch.rand(5))
    assert float(found) == pytest.approx(float((weights.norm() - 1) ** 2), rel=1e-5)


def test_critic_keeps_the_images_of_a_batch_apart():
    critic, x = Critic((1, 28, 28)), torch.rand(4, 1, 28, 28)
    assert torch.allclose(critic(x)[:2], critic(x[:2]), atol=1e-5)


def test_priors_are_cached_by_images_and_configuration(tmp_path):
    images = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
    config = GanConfig(1)
    first = cached_gan(images, config, tmp_path)
    again = cached_gan(images, config, tmp_path)
    assert (first[2], again[2]) == (False, True)
    z = torch.randn(2, first[0].latent)
    assert torch.equal(first[0](z), again[0](z))
    images[0, 0, 0, 0] ^= 1
    assert not cached_gan(images, config, tmp_path)[2]
    assert not cached_gan(images, replace(config, seed=1), tmp_path)[2]
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    assert not cached_gan(images, config, tmp_path)[2]


def test_advantage_is_over_the_best_baseline_and_its_interval_covers():
    """Constant rates: no spread. Rates by class: the interval against a plain bootstrap."""
    ones, zero = np.ones((5, 3)), np.zeros((5, 3))
    found = advantage(ones, {"a": zero, "b": ones * 0.25})
    assert found == {"value": 0.75, "interval": [0.75, 0.75], "floor": "b"}
    rates = np.repeat(np.array([0.0, 0.2, 0.4, 0.6, 1.0])[:, None], 3, 1)
    low, high = advantage(rates, {"a": zero})["interval"]
    rng = np.random.default_rng(9)
    means = np.quantile(rng.choice(rates[:, 0], (20_000, 5)).mean(1), [0.025, 0.975])
    assert (low, high) == (pytest.approx(means[0], abs=0.03), pytest.approx(means[1], abs=0.03))


def test_no_advantage_rarely_looks_like_one():
    """Target and baselines from one distribution: 'above 0' in few of 200 tries (20 classes)."""
    rng = np.random.default_rng(1)
    false = 0
    for i in range(200):
        a, b, c = rng.binomial(8, 0.2, (3, 20, 3)) / 8
        false += advantage(a, {"b": b, "c": c}, seed=i)["interval"][0] > 0
    assert false <= 12  # 2.5 % nominal is 5; 12 and more have a chance below 1 %


def faked(scores, teacher, student, accuracy=0.95):
    """The same scores with hit rates and a student's accuracy of choice."""
    cells = {}
    for (name, target), cell in scores.cells.items():
        share = {"teacher": teacher, "student": student}.get(target, 0.0)
        wrong = (cell.labels + 1) % 5
        hit = np.arange(len(wrong)) % 4 < 4 * share
        judged = np.where(hit, cell.labels, wrong)
        cells[name, target] = replace(cell, network=judged, neighbours=judged)
    facts = scores.facts | {"judges": scores.facts["judges"] | {"both": 0.9}}
    accuracies = {n: {"accuracy_holdout": 0.95} for n in scores.facts["targets"]}
    accuracies["student"] = {"accuracy_holdout": accuracy}
    return replace(scores, cells=cells, facts=facts | {"targets": accuracies})


@pytest.mark.parametrize(
    ("teacher", "student", "accuracy", "verdict"),
    [
        (1.0, 1.0, 0.95, "leaks"),
        (1.0, 0.0, 0.95, "no leak shown"),
        (0.0, 1.0, 0.95, "no power"),
        (1.0, 1.0, 0.39, "no claim"),
    ],
)
def test_verdicts(attacked, teacher, student, accuracy, verdict):
    scores = load_inversion_scores(attacked[0].private / "attacks/inversion")
    found = inversion_report(faked(scores, teacher, student, accuracy))
    assert found["headline"]["student"]["verdict"] == verdict


def test_a_gap_of_the_baselines_too_speaks_of_no_record(attacked):
    """Training images that lie nearer to everything, as where pools were taken by date."""
    scores = load_inversion_scores(attacked[0].private / "attacks/inversion")
    found = {}
    for shift in (0.0, -0.2):
        cells = {}
        for name, cell in scores.cells.items():
            d = np.random.default_rng(0).random(cell.distances.shape).astype(np.float32)
            d[:, : d.shape[1] // 2] += shift
            cells[name] = replace(cell, distances=d)
        found[shift] = inversion_report(replace(scores, cells=cells))
    assert all(not a["pools_alike"] for a in found[-0.2]["attacks"].values())
    assert any("speaks of records" in note for note in found[-0.2]["notes"])
    assert all(a["pools_alike"] for a in found[0.0]["attacks"].values())
    assert not any("speaks of records" in note for note in found[0.0]["notes"])
    untrained = found[-0.2]["attacks"]["gmi"]["floors"]["untrained"]["memorisation"]
    assert untrained["p_value"] < 0.01 and untrained["gap"] < 0
    assert "0.001" in inversion_text(found[-0.2]).split("baseline: untrained")[1].splitlines()[0]


def test_judges_below_twice_chance_can_judge_nothing(attacked):
    scores = faked(load_inversion_scores(attacked[0].private / "attacks/inversion"), 1.0, 1.0)
    judges = scores.facts["judges"] | {"both": 0.3}
    found = inversion_report(replace(scores, facts=scores.facts | {"judges": judges}))
    assert found["headline"]["teacher"]["verdict"] == "no power"


def test_budgets_do_what_the_issue_asks():
    assert BUDGETS["standard"].attacks == ("gmi", "released") and BUDGETS["standard"].seeds == 3
    assert BUDGETS["full"].seeds >= 5 and searching.BUDGETS is BUDGETS


def test_run_without_a_folder_is_one_line(tmp_path, capsys):
    assert main(["attack", "inversion", str(tmp_path / "none")]) == 2
    assert "no run folder" in capsys.readouterr().err
    with pytest.raises(UserError):
        load_inversion_scores(tmp_path)


def test_logit_loss_by_hand_and_where_cross_entropy_is_flat():
    z = torch.tensor([[3.0, 1.0, -2.0]], requires_grad=True)
    loss = logit_loss(z, torch.tensor([1]))
    assert loss.tolist() == pytest.approx([0.01 * 14 - 1])
    sure = torch.tensor([[40.0, 0.0]], requires_grad=True)
    for of, slope in ((torch.nn.functional.cross_entropy, 0.0), (logit_loss, 0.2)):
        (found,) = torch.autograd.grad(of(sure, torch.tensor([0]), reduction="none").sum(), sure)
        assert abs(float(found[0, 0])) == pytest.approx(slope, abs=1e-6)


def test_surrogates_learn_what_the_model_says_of_public_images():
    rng = torch.Generator().manual_seed(0)
    dark = torch.randint(0, 60, (100, 1, 16, 16), generator=rng)
    public = torch.cat([dark, dark + 180]).to(torch.uint8)

    def logits(x):
        return torch.stack([x.mean((1, 2, 3)) * 20 - 10, torch.zeros(len(x))], 1)

    (surrogate,) = surrogates(logits, public, 2, count=1, steps=60, seed=0)
    agree = surrogate(public / 255).argmax(1) == logits(public / 255).argmax(1)
    assert float(agree.float().mean()) > 0.95


def test_without_an_undefended_teacher_one_is_trained_for_the_positive_control(tmp_path):
    config = tree(tmp_path, split="digits")
    config["teacher"] |= {"model": "cnn-tiny", "shards": 3, "shard_steps": 2}
    config["privacy"] |= {"route": "ensemble", "unit": "record", "mechanism": "noisy_votes"}
    run = transcribe(parse_config(config), out=tmp_path / "run")
    context = Attack(run)
    targets = load_targets(context, load_profile(context), run.private / "models", answers=100)
    teacher = {t.name: t for t in targets}["teacher"]
    assert "undefended" in teacher.what and teacher.accuracy > 0.8
    assert not list(run.path.glob("teachers")) and (run.private / "models/teachers").is_dir()


def test_a_model_without_gradient_is_one_line(attacked):
    profile = load_profile(Attack(attacked[0]))
    with pytest.raises(UserError, match="teacher: gives no gradient"):
        _check_gradient("teacher", lambda x: torch.zeros(len(x), 5), profile)


def test_kedmi_discriminator_loss_is_that_of_its_parts():
    rng = torch.Generator().manual_seed(0)
    real, fake, soft = (torch.randn(6, 4, generator=rng) for _ in range(3))
    soft = soft.softmax(1)
    p_real, p_fake = (z.exp().sum(1) / (1 + z.exp().sum(1)) for z in (real, fake))  # sigmoid(L)
    crossed = -(soft * real.softmax(1).log()).sum(1)
    wanted = (-p_real.log() - (1 - p_fake).log() + crossed).mean()
    assert float(discriminator_loss(real, fake, soft)) == pytest.approx(float(wanted), rel=1e-5)


def test_kedmi_recovers_a_distribution_of_images():
    public = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
    prior = kedmi_prior(lambda x: x.flatten(1)[:, :3], public, 3, GanConfig(1, batch=4))
    p = prior.start(2, torch.Generator().manual_seed(0))
    assert p.shape == (2, 64)
    assert not torch.equal(prior.decode(p), prior.decode(p))  # drawn anew each time
    p[:, 32:] = -30  # no spread is left
    assert torch.allclose(prior.decode(p), prior.decode(p), atol=1e-6)


def test_models_of_the_baselines_repeat_themselves(attacked, tmp_path, monkeypatch):
    monkeypatch.setattr(targets_module, "_PERMUTED_STEPS", 3)
    profile = load_profile(Attack(attacked[0]))
    recipe = targets_module._recipe(profile, None)
    states = []
    for name, disturb in (("a", 1), ("b", 2)):
        torch.manual_seed(disturb)
        made = targets_module._kept(
            tmp_path / name, profile, 5, lambda: targets_module._permuted(profile, recipe, 5)
        )
        states.append(made.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_released_prior_is_the_trainable_generator_where_there_is_one(tmp_path_factory):
    run = tiny_run(tmp_path_factory)
    prior = released_prior(run, 10)
    z = prior.start(3, torch.Generator().manual_seed(0))
    assert z.shape == (3, run.config.generator.latent) and prior.decode(z).shape == (3, 1, 28, 28)
    weights = load_file(run.release / "generator.safetensors")
    state = prior.decode.state_dict()
    assert all(torch.equal(state[name], weights[name]) for name in weights) and weights


def test_released_prior_else_draws_from_the_procedural_images(attacked):
    prior = released_prior(attacked[0], 4)
    p = prior.start(40, torch.Generator().manual_seed(0))
    assert len({x.numpy().tobytes() for x in p}) == 4
    assert prior.penalty(p, p, prior.decode(p) * 0).shape == (40,)
    near, far = (prior.penalty(p, p, prior.decode(p) + d).mean() for d in (0.0, 0.3))
    assert far > near


def digits_profile(**teacher):
    config = parse_config(
        {"device": "cpu", "data": {"split": "digits"}, "teacher": teacher,
         "privacy": {"epsilon": 1.0}}
    )  # fmt: skip
    data = load_data(config.data)
    return Profile("digits", config, config.facts, data, load_public_classes(config.data))


@pytest.mark.parametrize("kind", ["affine", "shift-flip", "none"])
def test_control_and_permuted_are_augmented_as_the_teacher_was(kind, monkeypatch):
    profile, seen = digits_profile(augment=kind), []
    whole = fit_module.augment
    monkeypatch.setattr(fit_module, "augment", lambda x, k: (seen.append(k), whole(x, k))[1])
    monkeypatch.setattr(targets_module, "_PERMUTED_STEPS", 2)
    recipe = targets_module._recipe(profile, None)
    targets_module._permuted(profile, recipe, 0)
    control = targets_module._control(profile, recipe, 0.0, 0)  # reached at the first look
    assert seen == [kind] * (2 + 5) and not control.training


def test_the_recipe_is_that_of_the_teachers_folder(tmp_path):
    """A teacher by path: the configuration does not say how it was trained."""
    profile = digits_profile(batch_size=99)
    steps = -(-len(profile.private.train) // 32) * 7
    trained = {"model": "cnn", "epochs": 7, "batch_size": 32, "lr": 0.5, "augment": "affine"}
    found = targets_module._recipe(
        profile, TeacherFolder(tmp_path, "t", "plain", {"recipe": trained})
    )
    assert found == FitRecipe(steps, 32, 0.5, "affine", 0.05)
    shards = {
        "model": "cnn",
        "steps": 9,
        "batch_size": 3,
        "lr": 0.5,
        "augment": "none",
        "shards": 4,
    }
    found = targets_module._recipe(
        profile, TeacherFolder(tmp_path, "t", "ensemble", {"recipe": shards})
    )
    assert (found.batch_size, found.lr, found.augment) == (99, 0.01, "none")
