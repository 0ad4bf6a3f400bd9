import json
import math
import re

import pytest
import torch
from statements import stated, write_release

from dpsd.config import parse_config
from dpsd.errors import UserError
from dpsd.privacy.accounting import compose_epsilon
from dpsd.privacy.events import GaussianRelease, PureRelease
from dpsd.privacy.ledger import Ledger, image_hashes
from dpsd.privacy.plan import make_plan
from dpsd.privacy.signature import sign, signing_key
from dpsd.privacy.statement import declared_public, guarantee
from dpsd.privacy.statement_text import statement_text
from dpsd.privacy.verify import verify_release

RR = {"mechanism": "randomized_response", "epsilon": 1.0, "answers": 1000}
GAUSSIAN = {"mechanism": "gaussian", "epsilon": 2.0, "answers": 500, "delta": 1e-6}
NONE = {"mechanism": "none", "epsilon": None, "answers": 1000}
SEEDED = RR | {"insecure_seeded_noise": True}
KINDS = [RR, GAUSSIAN, NONE, SEEDED, RR | {"asks_per_image": 5}, GAUSSIAN | {"top_k": 3}]


def config(privacy):
    tree = {"data": {"name": "digits"}, "loop": {"rounds": 10}, "privacy": privacy}
    return parse_config(tree)


def plan(privacy):
    return make_plan(config(privacy))


def again(folder, name, privacy):
    """The facts of a run's statement, as they follow from the ledger now."""
    return stated(config(privacy), plan(privacy), name, "t", folder)


def run(folder, name, privacy, answers=7):
    """Enter a run with some answers in the teacher's ledger, and give its statement's facts."""
    ledger = Ledger(folder, "t")
    ledger.open_run(*plan(privacy).records(name, "2024-01-01"))
    asked = torch.randint(256, (answers, 1, 2, 2), dtype=torch.uint8)
    ledger.charge(name, 0, image_hashes(asked))
    return again(folder, name, privacy)


@pytest.fixture
def release(tmp_path):
    """A sealed release folder."""
    facts = run(tmp_path / "teacher", "a", RR)
    return write_release(tmp_path / "release", facts, config(RR), tmp_path / "teacher")


# ---------------------------------------------------------------- facts and guarantee


def test_guarantee_of_randomised_response(tmp_path):
    g = run(tmp_path, "a", RR)["guarantee"]
    assert g["epsilon"] == pytest.approx(1.0)
    assert g["mu"] is None
    worst = compose_epsilon([(PureRelease(1.0), 1000)], 1e-5)
    assert g["worst_case_epsilon"] == pytest.approx(worst)
    assert g["composed_epsilon"] == g["epsilon"]  # the only run


def test_guarantee_of_the_gaussian(tmp_path):
    facts = run(tmp_path, "a", GAUSSIAN)
    g = facts["guarantee"]
    assert g["epsilon"] == pytest.approx(2.0, abs=1e-8)
    assert g["mu"] == pytest.approx(facts["mechanism"]["sensitivity"] / facts["mechanism"]["sigma"])
    at = dict(zip(facts["deltas"], g["epsilon_at"], strict=True))
    assert at[1e-6] == g["epsilon"]
    assert at[1e-5] < g["epsilon"] < math.inf
    assert facts["deltas"] == [1e-6, 1e-5]  # the configured one first; no 1/M for one answer


def test_guarantee_is_for_the_cap_not_for_the_answers_made(tmp_path):
    few, many = (run(tmp_path / str(n), "a", RR, answers=n) for n in (1, 900))
    assert few["guarantee"] == many["guarantee"]
    assert (few["answers_made"], many["answers_made"], few["answers_cap"]) == (1, 900, 1000)


def test_second_run_on_a_teacher_composes_with_the_first(tmp_path):
    first = run(tmp_path, "a", RR)
    second = run(tmp_path, "b", GAUSSIAN)
    assert first["earlier_runs"] == []
    assert [r["run"] for r in second["earlier_runs"]] == ["a"]
    m = second["mechanism"]
    gaussian = GaussianRelease(m["sensitivity"], m["sigma"])
    g = second["guarantee"]
    once = compose_epsilon([(gaussian, 1), (PureRelease(1.0), 1)], 1e-6)
    everything = compose_epsilon([(gaussian, 500), (PureRelease(1.0), 1000)], 1e-6)
    assert g["composed_epsilon"] == pytest.approx(once, rel=1e-9)
    assert g["composed_worst_case_epsilon"] == pytest.approx(everything, rel=1e-9)
    assert g["epsilon"] < g["composed_epsilon"] < g["epsilon"] + 1.0 + 1e-9


def test_a_run_that_began_first_and_ends_last_counts_the_one_between(tmp_path):
    began = run(tmp_path, "a", RR)
    run(tmp_path, "b", GAUSSIAN)
    ended = again(tmp_path, "a", RR)
    assert began["earlier_runs"] == [] and [r["run"] for r in ended["earlier_runs"]] == ["b"]
    both = [(PureRelease(1.0), 1000), (plan(GAUSSIAN).mechanism.event, 500)]
    composed = ended["guarantee"]["composed_worst_case_epsilon"]
    assert composed == pytest.approx(compose_epsilon(both, 1e-5))


def test_the_answers_of_a_seeded_run_are_open_to_whoever_composes(tmp_path):
    run(tmp_path, "seeded", SEEDED)
    facts = run(tmp_path, "b", RR)
    g = facts["guarantee"]
    assert g["epsilon"] == pytest.approx(1.0)
    assert g["composed_epsilon"] is None and g["composed_worst_case_epsilon"] is None
    assert "the noise of at least one of them can be predicted" in statement_text(facts)


def test_a_statement_follows_from_the_master_ledger_and_its_figures_from_the_facts(tmp_path):
    for name, privacy in (("a", RR), ("b", GAUSSIAN)):
        facts = run(tmp_path, name, privacy)
        assert again(tmp_path, name, privacy) == facts
        stored = json.loads(json.dumps(facts))
        assert guarantee(stored) == facts["guarantee"]


def test_open_first_run_makes_the_composition_infinite(tmp_path):
    run(tmp_path, "a", NONE)
    facts = run(tmp_path, "b", RR)
    assert facts["guarantee"]["epsilon"] == pytest.approx(1.0)
    assert facts["guarantee"]["composed_epsilon"] is None
    assert "has epsilon infinite per answer" in statement_text(facts)


def test_nothing_is_claimed_that_the_ledger_does_not_hold(tmp_path):
    run(tmp_path, "a", RR)
    with pytest.raises(UserError, match="holds no run b"):
        again(tmp_path, "b", RR)


def test_links_are_no_files_of_a_release(release):
    (release / "more").symlink_to(release / "tb")
    with pytest.raises(UserError, match="more: is a link"):
        verify_release(release)


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("privacy", KINDS)
@pytest.mark.parametrize("earlier", [None, RR, NONE])
def test_every_epsilon_names_its_unit(tmp_path, privacy, earlier):
    if earlier is not None:
        run(tmp_path, "first", earlier)
    text = statement_text(run(tmp_path, "a", privacy))
    figures = [
        line for line in text.splitlines() if re.search(r"epsilon:? (is )?(infinite|\d)", line)
    ]
    assert len(figures) >= 3
    for line in figures:
        assert re.search(r"per answer|record|every unit", line), line
    for line in text.splitlines():
        for figure in re.findall(r"epsilon (?:infinite|[\d.,e+]+)([^;.]*)", line):
            assert re.match(r" (per answer|for one record)", figure), line


def test_text_says_what_is_not_protected(tmp_path):
    text = statement_text(run(tmp_path, "a", RR))
    assert "does not protect a record" in text
    assert "worst case (all 1,000 answers change together)" in text
    assert "at most 1,000 by the plan, 7 made" in text
    assert "Not covered: hyper-parameters" in text
    assert "NOT PRIVATE" not in text


@pytest.mark.parametrize(("privacy", "why"), [(SEEDED, "seeded"), (NONE, "nothing was privatised")])
def test_what_is_not_private_is_stamped(tmp_path, privacy, why):
    facts = run(tmp_path, "a", privacy)
    text = statement_text(facts)
    assert facts["private"] is False
    assert text.startswith("NOT PRIVATE: ")
    assert why in text.splitlines()[0]


@pytest.mark.parametrize("asks", [1, 5])
def test_pure_epsilon_is_stated_at_delta_zero(tmp_path, asks):
    text = statement_text(run(tmp_path, "a", RR | {"epsilon": 10.0, "asks_per_image": asks}))
    assert "Pure epsilon: 10 per answer, at delta 0." in text


# ---------------------------------------------------------------- verification


@pytest.mark.parametrize("privacy", KINDS)
def test_verify_accepts_what_was_written(tmp_path, privacy):
    run(tmp_path / "teacher", "first", GAUSSIAN)
    facts = run(tmp_path / "teacher", "a", privacy)
    keys = tmp_path / "teacher"
    release = write_release(tmp_path / "release", facts, config(privacy), keys)
    found = verify_release(release, ledger=keys)
    assert found["guarantee"] == facts["guarantee"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / "student.safetensors").write_bytes(b"other"), "student.*: changed"),
        (lambda r: (r / "student.safetensors").unlink(), "student.*: missing"),
        (lambda r: (r / "tb" / "events").write_bytes(b""), "events: changed"),
        (lambda r: (r / "more.txt").write_text("x"), "more.txt: not in the statement"),
        (lambda r: (r / "tb" / "statement.json").write_text("x"), "not in the statement"),
        (lambda r: (r / ".hidden").write_text("x"), "hidden: not in the statement"),
        (lambda r: (r / "statement.txt").write_text("epsilon 0.1"), "statement.txt: changed"),
        (lambda r: (r / "statement.txt").unlink(), "statement.txt: missing"),
        (lambda r: (r / "statement.sig").unlink(), "statement.sig: missing"),
        (lambda r: (r / "statement.sig").write_text("{}"), "no readable signature"),
        (lambda r: (r / "statement.json").unlink(), "no readable statement"),
        (lambda r: (r / "statement.json").write_text("{"), "no readable statement"),
        (lambda r: (r / "statement.json").write_text("[]"), "no readable statement"),
        (lambda r: (r / "statement.json").write_text("{}"), "no readable statement"),
        (
            lambda r: (r / "statement.json").write_text('{"files": {}, "files": {"a": "b"}}'),
            "a key stands twice",
        ),
    ],
)
def test_verify_catches_a_changed_folder(release, change, message):
    change(release)
    with pytest.raises(UserError, match=message):
        verify_release(release)


@pytest.mark.parametrize(
    "broken",
    [
        {"release": "pure"},
        {"release": {"kind": "laplace"}},
        {"release": {"kind": "gaussian", "sensitivity": 1.0, "sigma": 0.0}},
        {"earlier_runs": None},
        {"files": [1]},
        {"guarantee": "strong"},
        {"files": {}},
        {"deltas": [1e-300]},
        {"mechanism": None},
    ],
)
def test_verify_refuses_malformed_facts_in_one_line(release, broken):
    path = release / "statement.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | broken))
    sign(release, signing_key(release.parent / "teacher"))
    with pytest.raises(UserError) as e:
        verify_release(release)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_photographs_that_fix_features_are_declared_public(who):
    """`scatter-public` models are made from two photographs, whatever is asked about."""
    tree = {"data": {"name": "cifar10"}, "privacy": {"mechanism": "none"}}
    plain = declared_public(parse_config(tree))
    assert "feature_photographs" not in plain
    listed = declared_public(parse_config(tree | {who: {"model": "scatter-public"}}))
    assert [p["file"] for p in listed["feature_photographs"]] == ["china.jpg", "flower.jpg"]
    assert {k: v for k, v in listed.items() if k != "feature_photographs"} == plain


@pytest.mark.parametrize(
    ("generator", "says"),
    [
        ({"shares": {"photographs": 1, "adversarial": 0.5}}, "crops of the photographs listed"),
        ({"shares": {"strokes": 1, "blobs": 0}}, "procedural images (strokes)"),
        (
            {"kind": "mixed", "shares": {"photographs": 1, "leaves": 2, "adversarial": 1}},
            "crops of the photographs listed, and procedural images (leaves), and images of a "
            "generator that learns from the student",
        ),
        ({"kind": "adversarial"}, "images of a generator that learns from the student"),
    ],
)
def test_the_sources_that_are_drawn_are_named(generator, says):
    tree = {"data": {"name": "cifar10"}, "privacy": {"mechanism": "none"}, "generator": generator}
    assert declared_public(parse_config(tree))["query_images"] == says


def test_a_pinned_folder_of_query_images_is_listed_by_its_hash():
    generator = {"kind": "images", "source": "public", "source_sha256": f"sizes:{'0' * 64}"}
    tree = {"data": {"name": "cifar10"}, "privacy": {"mechanism": "none"}, "generator": generator}
    listed = declared_public(parse_config(tree))
    assert listed["query_images"] == "declared public by the user: public"
    assert listed["query_folder"] == {"sha256": "0" * 64, "of": "sorted file names and sizes"}
