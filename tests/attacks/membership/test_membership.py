"""Membership: the statistics against plain loops, the game's rows, and a whole attack."""

import json
import math
import stat

import numpy as np
import pytest
import torch
from products import contents, copy_of, tiny_run
from scipy.stats import beta, norm

from dpsd.attacks.context import Attack
from dpsd.attacks.membership import attack as membership
from dpsd.attacks.membership import game as game_module
from dpsd.attacks.membership import lira, rmia
from dpsd.attacks.membership.attack import MembershipBudget, attack
from dpsd.attacks.membership.game import ShadowDoor, distil_student, make_game, train_teachers
from dpsd.attacks.membership.report import membership_report, needed, tpr_at
from dpsd.attacks.membership.text import membership_card, membership_text
from dpsd.attacks.statistics import auc
from dpsd.attacks.store import kept, load_scores
from dpsd.config import parse_config
from dpsd.data.load import PrivateData, Split
from dpsd.errors import UserError
from dpsd.privacy.plan import make_plan

TINY = MembershipBudget("cnn-tiny", 120, 4, 2, 2, 400)
RNG = np.random.default_rng(0)

# ---------------------------------------------------------------- statistics


def test_confidence_is_the_log_odds_of_the_label():
    logits, labels = RNG.normal(size=(3, 5, 4)), np.array([0, 3, 1, 2, 2])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own = p[:, np.arange(5), labels]
    assert lira.confidence(logits, labels) == pytest.approx(np.log(own / (1 - own)))
    sure = lira.confidence(np.array([[1000.0, 0.0]]), np.array([0]))
    assert sure == pytest.approx([1000.0])


def shadows(models=8, rows=6):
    inside = np.zeros((models, rows), bool)
    for r in range(rows):
        inside[RNG.permutation(models)[: models // 2], r] = True
    return RNG.normal(size=(models, rows)), inside


def test_lira_against_a_plain_loop():
    values, inside = shadows()
    target = RNG.normal(size=6)
    means, residuals = {}, {True: [], False: []}
    for r in range(6):
        for kind in (True, False):
            mine = [values[m, r] for m in range(8) if inside[m, r] == kind]
            means[r, kind] = sum(mine) / len(mine)
            residuals[kind] += [x - means[r, kind] for x in mine]
    spread = {k: math.sqrt(sum(x * x for x in v) / (len(v) - 6)) for k, v in residuals.items()}
    ratio = [
        norm.logpdf(target[r], means[r, True], spread[True])
        - norm.logpdf(target[r], means[r, False], spread[False])
        for r in range(6)
    ]
    assert lira.online(target, values, inside) == pytest.approx(ratio)
    z = [(target[r] - means[r, False]) / spread[False] for r in range(6)]
    assert lira.offline(target, values, inside) == pytest.approx(z)


def test_lira_needs_models_on_both_sides():
    values, inside = shadows()
    inside[:, 2] = True
    with pytest.raises(UserError, match="1 rows are inside"):
        lira.offline(values[0], values, inside)


def test_rmia_against_a_plain_loop():
    values, inside = shadows(4, 6)
    p, target = 1 / (1 + np.exp(-values)), RNG.random(6)
    q, z = RNG.random((4, 9)), RNG.random(9)
    found = rmia.score(target, p, inside, z, q)

    def anyone(out):
        return (1.3 * out + 0.7) / 2

    for r in range(6):
        out = np.mean([p[m, r] for m in range(4) if not inside[m, r]])
        mine = target[r] / anyone(out)
        share = np.mean([mine >= rmia.GAMMA * z[i] / anyone(q[:, i].mean()) for i in range(9)])
        assert share <= found[r] < share + 1 / 9
    with pytest.raises(UserError, match="population"):
        rmia.score(target, p, inside, z[:0], q[:, :0])


def test_tpr_has_clopper_pearson_and_says_what_it_needs():
    scores = np.concatenate([np.arange(500.0), np.full(40, 497.5), np.full(60, -1.0)])
    member = np.arange(600) >= 500
    found = tpr_at(scores, member, 0.01)
    assert found["tpr"] == pytest.approx(0.4) and found["fpr"] == pytest.approx(0.01)
    expected = [beta.ppf(0.025, 40, 61), beta.ppf(0.975, 41, 60)]
    assert found["interval"] == pytest.approx(expected)
    assert tpr_at(scores, member, 0.001) == {"needed": 5000, "non_members": 500}
    assert (needed(0.01), needed(0.001)) == (500, 5000)


def test_the_tail_of_unrelated_scores_has_its_level():
    rng, member = np.random.default_rng(5), np.arange(2200) < 1000
    alarms = [tpr_at(rng.normal(size=2200), member, 0.01)["p_value"] <= 0.05 for _ in range(400)]
    assert 0.01 < np.mean(alarms) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_few_that_are_betrayed_are_a_leak_that_auc_does_not_see():
    """75 of 1,500 members. Not on a model of the run, whose members are rows of another kind."""
    rng, n = np.random.default_rng(6), 3000
    member, canary = np.arange(n) % 2 == 0, np.arange(n) % 5 == 0
    few = 9.0 * (member & (np.arange(n) < 150))
    facts = {"targets": {}, "classes": 10, "run": "", "budget": "fast", "spend": {}, "seed": 0,
             "trained_on": n // 2, "skipped": {}, "seconds": {}}  # fmt: skip
    arrays = {}
    for name in ("profile teacher", "profile student"):
        arrays |= {f"{name}/member": member, f"{name}/canary": canary}
    arrays["profile teacher/lira online"] = np.where(member & canary, 1.0, 0.0)  # power
    arrays["profile student/rmia"] = rng.normal(size=n) + few
    arrays["run student/member"] = member[~canary]
    arrays["run student/canary"] = np.zeros((~canary).sum(), dtype=bool)
    arrays["run student/rmia"] = arrays["profile student/rmia"][~canary]
    facts["targets"] = {
        name: {"accuracy": 0.9} for name in ("profile teacher", "profile student", "run student")
    }
    arrays["profile teacher/rmia"] = rng.normal(size=n)
    report = membership_report(arrays, facts)
    cells = {(c["target"], c["rows"], c["attack"]): c for c in report["cells"]}
    assert cells["profile student", "ordinary", "rmia"]["auc_low"] < 0.5
    assert cells["profile student", "ordinary", "rmia"]["verdict"] == "leaks"
    assert cells["run student", "ordinary", "rmia"]["verdict"] == "no leak shown"


# ---------------------------------------------------------------- the game


def private(train=300, holdout=100):
    rng = torch.Generator().manual_seed(0)

    def split(n):
        images = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=rng)
        return Split(images, torch.randint(0, 10, (n,), generator=rng))

    return PrivateData(split(train), split(holdout), None)


def test_who_is_trained_on_what():
    data = private()
    game = make_game(data, 10, shadows=6, seed=3)
    n = len(game.rows)
    assert game.inside.shape == (7, n) and n == 360 and len(game.population) == 40
    assert (game.inside.sum(1) == n // 2).all()
    assert (game.inside[1:].sum(0) == 3).all()  # each row inside of half of the shadows
    assert game.canary.sum() == n // 5
    assert game.inside[:, game.canary].sum(1).tolist() == [n // 10] * 7
    whole = torch.cat([data.train.images, data.holdout.images]).flatten(1)
    truth = torch.cat([data.train.labels, data.holdout.labels])
    place = [int((whole == image.flatten()).all(1).nonzero()) for image in game.rows.images]
    assert len(set(place)) == n
    right = (truth[place] == game.rows.labels).numpy()
    assert (right == ~game.canary).all()
    assert (game.trained == (np.array(place) < 300)).all()
    others = [int((whole == x.flatten()).all(1).nonzero()) for x in game.population.images]
    assert not set(others) & set(place)


def test_too_few_rows():
    with pytest.raises(UserError, match="60 rows for a membership game"):
        make_game(private(50, 10), 10, shadows=2, seed=0)


def test_shadow_doors_charge_nobody(tmp_path):
    from products import tiny_config

    plan = make_plan(tiny_config(tmp_path))
    door = ShadowDoor(lambda images: torch.zeros(len(images), 10), plan, b"x")
    images = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    believed = torch.full((3, 10), 0.1)
    assert len(door.answer(images, lambda x: believed)) == 3 and door.position == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("privacy", "soft"),
    [
        ({"mechanism": "none", "route": "none", "unit": "none"}, True),
        ({"epsilon": 12.0, "ask": "graded"}, True),
        ({"epsilon": 8.0}, False),
    ],
)
def test_shadow_students_learn_by_the_rule_of_the_run(monkeypatch, privacy, soft):
    """Graded answers stand for distributions, as open ones do."""
    config = parse_config({"device": "cpu", "privacy": privacy | {"answers": 400}})
    rules = []
    monkeypatch.setattr(
        game_module, "distil", lambda session, **k: rules.append(session.student.soft_targets)
    )
    distil_student(lambda images: torch.zeros(len(images), 10), config, 0)
    assert rules == [soft] == [make_plan(config).mechanism.soft_targets]


# ---------------------------------------------------------------- a whole attack


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    run = copy_of(tiny_run(tmp_path_factory), tmp_path_factory.mktemp("membership") / "run")
    before = contents(run.release), contents(run.teacher_folder)
    patch = pytest.MonkeyPatch()
    patch.setitem(membership.BUDGETS, "fast", TINY)
    report = attack(Attack(run, budget="fast"))
    patch.undo()
    return run, report, before


def test_every_target_has_figures_with_intervals(attacked):
    _, report, _ = attacked
    targets = {"profile teacher", "profile student", "run teacher", "run student"}
    assert {c["target"] for c in report["cells"]} == targets and report["unit"] == "record"
    for c in report["cells"]:
        assert c["auc_low"] <= c["auc_interval"][0] <= c["auc"] <= c["auc_interval"][1]
        assert set(c["tpr_at"]["0.001"]) == {"needed", "non_members"}
    by = {(c["target"], c["rows"], c["attack"]): c for c in report["cells"]}
    assert ("run teacher", "ordinary", "lira online") not in by
    assert ("run student", "canaries", "rmia") not in by
    assert by["profile teacher", "ordinary", "rmia"]["tpr_at"]["0.01"]["tpr"] >= 0
    assert "NO POWER" in membership_text(report) or report["control"]["power"]
    assert membership_card(report).count("\n| ") == len(report["cells"]) + 1


def test_it_writes_under_private_alone(attacked):
    run, _, before = attacked
    assert (contents(run.release), contents(run.teacher_folder)) == before
    folder = run.private / "attacks" / "membership"
    names = {"scores.npz", "report.json", "roc.png", "parts"}
    assert {p.name for p in folder.iterdir()} == names
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_analysis_runs_alone(attacked, tmp_path):
    run, _, _ = attacked
    folder = run.private / "attacks" / "membership"
    (tmp_path / "scores.npz").write_bytes((folder / "scores.npz").read_bytes())
    again = attack(Attack(run, out=tmp_path, analyse_only=True))
    assert json.loads(json.dumps(again)) == json.loads((folder / "report.json").read_text())
    with pytest.raises(UserError, match="run the attack before"):
        attack(Attack(run, out=tmp_path / "empty", analyse_only=True))


def test_verdicts_follow_the_control(attacked):
    run, _, _ = attacked
    arrays, facts = load_scores(run.private / "attacks" / "membership")
    member = arrays["profile teacher/member"]
    arrays["profile teacher/lira online"] = np.where(member, 1.0, 0.0)
    for target in facts["targets"].values():
        target["accuracy"] = 0.9
    facts["targets"]["run student"]["accuracy"] = 0.15
    arrays["run teacher/rmia"] = np.where(arrays["run teacher/member"], 1.0, 0.0)
    found = {
        (c["target"], c["attack"]): c["verdict"] for c in membership_report(arrays, facts)["cells"]
    }
    assert found["run teacher", "rmia"] == "leaks"
    assert found["run student", "rmia"] == "no claim"
    arrays["profile teacher/lira online"] = RNG.normal(size=len(member))
    report = membership_report(arrays, facts)
    assert {c["verdict"] for c in report["cells"]} == {"no power"}
    assert not report["control"]["power"] and "NO POWER" in membership_text(report)


def test_rows_of_another_kind_are_no_membership(attacked):
    """Scores that tell training from held-out rows on a model that saw both alike: a placebo."""
    run, _, _ = attacked
    arrays, facts = load_scores(run.private / "attacks" / "membership")
    member = arrays["profile teacher/member"]
    arrays["profile teacher/lira online"] = np.where(member, 1.0, 0.0)  # power
    for target in facts["targets"].values():
        target["accuracy"] = 0.9
    kind = arrays["run teacher/member"]
    arrays["run teacher/rmia"] = np.where(kind, 1.0, 0.0) + 0.1 * RNG.normal(size=len(kind))
    verdicts = []
    for shift in (0.0, 1.0):
        scores = RNG.normal(size=len(member))
        scores[~arrays["profile teacher/canary"]] = shift * kind + 0.1 * RNG.normal(size=len(kind))
        arrays["profile teacher/rmia"] = scores
        cells = {(c["target"], c["attack"]): c for c in membership_report(arrays, facts)["cells"]}
        verdicts.append(cells["run teacher", "rmia"]["verdict"])
        assert cells["profile student", "rmia"]["placebo"] is None
    assert verdicts == ["leaks", "no leak shown"]


def test_an_overfit_teacher_is_read(attacked):
    """The positive control on random images: more steps, and LiRA finds all canaries."""
    run, _, _ = attacked
    game = make_game(private(), 10, shadows=4, seed=0)
    asks = train_teachers(
        game, run.config, model="cnn-tiny", steps=300, seed=0, say=lambda text: None
    )
    said = np.stack([membership.logits_on(a, game.rows.images) for a in asks])
    phi = lira.confidence(said, game.rows.labels.numpy())
    scores = lira.online(phi[0], phi[1:], game.inside[1:])
    assert auc(scores[game.canary], game.inside[0][game.canary])[0] > 0.9


def test_a_stopped_attack_goes_on(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(3)}

    path = tmp_path / "parts" / "a.npz"
    for key in ("one", "one", "two", "two"):
        assert kept(path, key, make)["x"].tolist() == [0, 1, 2]
    assert len(made) == 2
    path.write_bytes(b"torn")
    kept(path, "two", make)
    assert len(made) == 3


@pytest.mark.parametrize(("budget", "message"), [("huge", "budget: 'huge'")])
def test_bad_input(attacked, budget, message):
    with pytest.raises(UserError, match=message):
        attack(Attack(attacked[0], budget=budget))
