"""What is said for records and users, word by word."""

from dataclasses import replace

import pytest
import torch
from ensembles import SHAPE, ensemble_config, ensemble_plan
from statements import forge, stated, write_release

from dpsd.config import parse_config
from dpsd.errors import UserError
from dpsd.privacy.accounting import compose_epsilon
from dpsd.privacy.groups import group_epsilon
from dpsd.privacy.inherited import DpTraining
from dpsd.privacy.ledger import Ledger, image_hashes
from dpsd.privacy.plan import inherit
from dpsd.privacy.statement import guarantee
from dpsd.privacy.statement_text import statement_text
from dpsd.privacy.verify import verify_release

TRAINING = DpTraining("t", 1.3, 512 / 60_000, 1758, 1.0, 60_000, 1e-5)

HEAD = "Released: student, generator, synthetic data and public logs.\n"
RECORD = (
    "Unit of privacy: one record; neighbouring worlds: two data sets of the same size that differ "
    "in the content of one row (replace-one)"
)
SHARDS = " by a key that does not depend on the data.\n"
VOTES = (
    "Mechanism: noisy_votes, the histogram of 20 votes; noise: exact discrete Gaussian, sigma "
    "{sigma} votes in each of 4 counts.\n"
    "Sensitivity: L2 1.41421 (sqrt(2): one teacher's vote moves from one count to another, "
    "whatever the number of teachers).\n"
)
CAP = "all answers compose, and epsilon is stated for the cap.\n"
FIGURES = (
    "At delta 1e-05: epsilon 0.999978 for one {unit} (all 100 answers together).\n"
    "At delta 1e-06: epsilon 1.14359 for one {unit} (all 100 answers together).\n"
    "Zero-concentrated DP: rho 0.0359241 for one {unit}.\n"
)
ONE_RECORD = (
    "This is the worst case already: it holds for one record, whatever it is. Somebody with "
    "several records is protected less.\n"
)
ACCOUNTANT = (
    "Accountant: dpsd 0.1.0: privacy-loss distributions of dp-accounting {version}, "
    "connect-the-dots.\n"
)
TAIL = (
    "Trust: whoever runs the transcription holds the teacher and is trusted; readers of release/ "
    "are not.\n"
    'Declared public: {"image_shape": [1, 3, 3], "classes": 4, "pixel_range": [0, 255], '
    '"query_images": "procedural images (blobs, leaves, spectra, strokes)"}.\n'
    "Covered: the student's weights, the generator's weights, every image sampled and every label "
    "given by them, the public metrics and pictures: all post-processing of the answers and public "
    "facts.\n"
    "Not covered: hyper-parameters chosen on private data; side channels (time, memory, power); "
    "floating-point attacks on releases that are floats; figures measured on private data; "
)
TEACHERS = (
    "the teachers themselves; other models trained on the same data whose answers are not in this "
    "ledger.\n"
)


INHERITED = {"route": "inherited", "mechanism": "none", "epsilon": None}


def config_of(plan):
    """The configuration of a plan of these tests."""
    privacy = {"unit": plan.unit, "insecure_seeded_noise": plan.seeded_noise}
    privacy |= INHERITED if plan.route == "inherited" else {}
    return parse_config(ensemble_config(**privacy))


def run(folder, name, plan, answers=7):
    ledger = Ledger(folder, "d")
    ledger.open_run(*plan.records(name, "2024-01-01T09:30:00"))
    asked = torch.randint(256, (answers, *SHAPE), dtype=torch.uint8)
    ledger.charge(name, 0, image_hashes(asked))
    teacher = "ensemble" if plan.training is None else plan.training.teacher_uuid
    return stated(config_of(plan), plan, name, teacher, folder, "d")


def body(facts):
    """The statement between the officer's lines and the line that names the ledger."""
    text = statement_text(facts)
    return text[text.index("Released:") : text.index("Ledger: ")]


def groups(releases, relation="replace_one", said=""):
    found = [(k, group_epsilon(releases, k, 1e-5, relation)) for k in (2, 5, 10)]
    each = "; ".join(f"{k}: epsilon {g.epsilon:,.6g} ({g.bound})" for k, g in found)
    return f"For several records of one person, at delta 1e-05{said}: {each}.\n"


def inherited(training=TRAINING):
    return inherit(ensemble_plan(route="inherited", mechanism="none", epsilon=None), training)


def accountant():
    from importlib.metadata import version

    return ACCOUNTANT.format(version=version("dp-accounting"))


def test_ensemble_for_records(tmp_path):
    assert body(run(tmp_path, "a", ensemble_plan())) == (
        HEAD + RECORD + ". One record reaches the training of one teacher," + SHARDS
        + VOTES.format(sigma="52.7603")
        + "Answers: at most 100 by the plan, 7 made; " + CAP
        + FIGURES.format(unit="record") + ONE_RECORD
        + groups([(ensemble_plan().event, 100)]) + accountant()
        + "Earlier runs on the same data: none in its ledger.\n" + TAIL + TEACHERS
    )  # fmt: skip


def test_ensemble_after_another_run(tmp_path):
    run(tmp_path, "a", ensemble_plan())
    both = groups([(ensemble_plan().event, 200)])
    assert body(run(tmp_path, "b", ensemble_plan())) == (
        HEAD + RECORD + ". One record reaches the training of one teacher," + SHARDS
        + VOTES.format(sigma="52.7603")
        + "Answers: at most 100 by the plan, 7 made; " + CAP
        + FIGURES.format(unit="record") + ONE_RECORD
        + both.replace("person,", "person and all earlier runs,") + accountant()
        + "Earlier runs on the same data: 1. Together with this one they have epsilon 1.46514 for "
        "one record at delta 1e-05.\n" + TAIL + TEACHERS
    )  # fmt: skip


def test_ensemble_for_users(tmp_path):
    assert body(run(tmp_path, "a", ensemble_plan(unit="user"))) == (
        HEAD + "Unit of privacy: one user; neighbouring worlds: two data sets over the same public "
        "roster of users, where the rows of one user are replaced by any number of other rows, "
        "also none. One user reaches the training of one teacher," + SHARDS
        + VOTES.format(sigma="52.7603")
        + "Answers: at most 100 by the plan, 7 made; " + CAP + FIGURES.format(unit="user")
        + "This is the worst case already: it holds for all rows of one user together, whatever "
        "they are.\n" + accountant()
        + "Earlier runs on the same data: none in its ledger.\n" + TAIL + TEACHERS
    )  # fmt: skip


def test_inherited(tmp_path):
    assert body(run(tmp_path, "a", inherited())) == (
        HEAD + RECORD + "; beside it two data sets of which one has one row more "
        "(add-or-remove-one).\n"
        "Mechanism: none on the answers; the student has the guarantee that the teacher's own "
        "training by DP-SGD gave, by post-processing; noise: Gaussian on the sum of clipped "
        "gradients, multiplier 1.3, in each of 1,758 batches with a Poisson sampling rate of "
        "0.00853333 of 60,000 rows.\n"
        "Sensitivity: L2 1 under add-or-remove-one (one clipped gradient enters or leaves the "
        "sum), 2 under replace-one (one takes another's place).\n"
        "Answers: at most 100 by the plan, 7 made; they are post-processing of the teacher, so "
        "that their number does not matter.\n"
        "At delta 1e-05: epsilon 2.28621 for one record under replace-one; epsilon 1.28331 for one "
        "record under add-or-remove-one.\n"
        "At delta 1e-06: epsilon 2.58177 for one record under replace-one; epsilon 1.47386 for one "
        "record under add-or-remove-one.\n"
        "At delta 5.55e-06: epsilon 2.36493 for one record under replace-one; epsilon 1.33389 for "
        "one record under add-or-remove-one.\n" + ONE_RECORD
        + groups([(TRAINING.event, 1)], said=" under replace-one")
        + groups([(TRAINING.event, 1)], "add_or_remove_one", " under add-or-remove-one")
        + "The choice of hyper-parameters is not covered: if the teacher's were chosen on the "
        "private data, that choice is not in epsilon.\n" + accountant()
        + "Earlier runs on the same data: none in its ledger.\n" + TAIL
        + "the choice of the teacher's own hyper-parameters on private data; other models trained "
        "on the same data that are not in this ledger; noise drawn in floats while the teacher was "
        "trained.\n"
    )  # fmt: skip


def last_line_on_earlier_runs(facts):
    (line,) = [x for x in statement_text(facts).splitlines() if x.startswith("Earlier runs")]
    return line


def test_runs_on_one_dp_trained_teacher_are_charged_once(tmp_path):
    alone = run(tmp_path, "a", inherited())["guarantee"]
    again = run(tmp_path, "b", inherited())
    assert again["guarantee"] == alone
    assert last_line_on_earlier_runs(again) == (
        "Earlier runs on the same data: 1, of which 1 on the same teacher add nothing. Together "
        "with this one they have epsilon 2.28621 for one record under replace-one at delta 1e-05 "
        "(each training by DP-SGD counted once)."
    )


def test_what_does_not_fit_a_training_is_no_excuse_to_skip_it(tmp_path):
    """An earlier run that claims the run's own teacher counts unless it is that very training."""
    facts = run(tmp_path, "a", inherited())
    alone = facts["guarantee"]["composed_epsilon"]
    heavier = {"kind": "dp_sgd", "noise_multiplier": 0.5, "sample_rate": 0.01, "steps": 500}
    votes = {"kind": "votes", "sigma": 20.0, "cells": 2}
    for event in (heavier, votes):
        earlier = {"run": "x", "event": event, "cap": 9, "unit": "record", "teacher": "t"}
        forged = facts | {"earlier_runs": [earlier]}
        assert guarantee(forged)["composed_epsilon"] > alone + 0.01


def test_dp_trained_teachers_and_ensembles_of_the_same_data_compose(tmp_path):
    run(tmp_path, "a", inherited())
    run(tmp_path, "b", inherited())
    votes = run(tmp_path, "c", ensemble_plan())
    one, other = (TRAINING.event, 1), (ensemble_plan().mechanism.event, 100)
    both = compose_epsilon([one, other], 1e-5)
    assert 2.28 < both < 2.28621 + 0.999978
    assert votes["guarantee"]["composed_epsilon"] == both
    assert last_line_on_earlier_runs(votes) == (
        f"Earlier runs on the same data: 2. Together with this one they have epsilon {both:.6g} "
        "for one record at delta 1e-05 (each training by DP-SGD counted once)."
    )
    second = run(tmp_path, "d", inherited(replace(TRAINING, teacher_uuid="u")))
    assert second["guarantee"]["epsilon"] == pytest.approx(2.28621, rel=1e-5)
    all_three = compose_epsilon([(TRAINING.event, 2), other], 1e-5)
    assert second["guarantee"]["composed_epsilon"] == all_three > both
    user = run(tmp_path, "e", ensemble_plan(unit="user"))
    assert user["guarantee"]["composed_epsilon"] is None


def test_what_is_not_private_is_stamped(tmp_path):
    seeded = "NOT PRIVATE: the noise was seeded and can be predicted.\n\nThe figures below are"
    text = statement_text(run(tmp_path, "a", ensemble_plan(insecure_seeded_noise=True)))
    assert text.startswith(seeded)
    training = replace(TRAINING, seeded_noise=True)
    plan = inherit(ensemble_plan(route="inherited", mechanism="none", epsilon=None), training)
    assert not plan.private
    assert statement_text(run(tmp_path, "b", plan)).startswith(seeded)


def test_nothing_is_inherited_without_a_dp_ledger(tmp_path):
    with pytest.raises(UserError, match="not read, so that no guarantee is inherited"):
        run(tmp_path, "a", ensemble_plan(route="inherited", mechanism="none", epsilon=None))


@pytest.mark.parametrize(
    ("first", "second", "finite"),
    [
        ({}, {}, True),
        ({"unit": "user"}, {}, True),  # what protects a user protects each of their records
        ({}, {"unit": "user"}, False),
        ({"insecure_seeded_noise": True}, {}, False),
    ],
)
def test_what_earlier_runs_add(tmp_path, first, second, finite):
    run(tmp_path, "a", ensemble_plan(**first))
    facts = run(tmp_path, "b", ensemble_plan(**second))
    g = facts["guarantee"]
    assert g["epsilon"] == pytest.approx(1.0, abs=1e-3)
    if finite:
        assert g["composed_epsilon"] == pytest.approx(1.4647, abs=2e-3)  # mu 0.2683 * sqrt(2)
    else:
        assert g["composed_epsilon"] is None
        assert "epsilon infinite for one" in statement_text(facts)
        assert "can be predicted or was not made for a" in statement_text(facts)


PLANS = {
    "record": lambda: ensemble_plan(),
    "user": lambda: ensemble_plan(unit="user"),
    "inherited": inherited,
}


def released(tmp_path, kind):
    plan = PLANS[kind]()
    facts = run(tmp_path / "data", "a", plan)
    return write_release(tmp_path / "release", facts, config_of(plan), tmp_path / "data")


@pytest.mark.parametrize("kind", PLANS)
def test_verify_recomputes_what_was_written(tmp_path, kind):
    facts = verify_release(released(tmp_path, kind), ledger=tmp_path / "data")
    g = facts["guarantee"]
    assert (facts["scope"], facts["private"]) == ("total", True)
    assert g["worst_case_epsilon"] == g["epsilon"]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("record", lambda f, t: f["release"].update(cells=1), "release says"),
        ("record", lambda f, t: f["release"].update(sigma=99.0), "release says"),
        ("record", lambda f, t: f.update(answers_cap=50), "answers_cap says 50"),
        ("record", lambda f, t: f.update(answers_made=101), "101 answers exceed the cap 100"),
        ("inherited", lambda f, t: f["release"].update(steps=5), "release says"),
        ("inherited", lambda f, t: f["training"].update(noise_multiplier=9.0), "release says"),
        (
            "inherited",
            lambda f, t: f["training"].update(teacher_uuid="u"),
            "training is of teacher u",
        ),
        ("inherited", lambda f, t: f.update(training=None), "training: null"),
    ],
)
def test_verify_catches_facts_that_contradict_each_other(tmp_path, kind, change, message):
    release = released(tmp_path, kind)
    forge(release, change)
    with pytest.raises(UserError, match=message):
        verify_release(release)
