"""A forger rewrites a release. Plain `verify`, `--key` and `--ledger` each catch what they can.

The forger knows all code: after every change the figures, the text, the card and the hashes follow
from the changed facts, and the statement is signed with a fresh key. So `--key` must refuse all.
Plain `verify` must refuse whatever config.yaml does not give. What a forger changes in config.yaml
and facts alike makes a consistent lie: `--ledger` must refuse it where the ledger holds the truth.
For each tampering the table names who must refuse it besides `--key`.
"""

import json
import shutil

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ensembles import SHAPE, ensemble_config
from statements import forge, stated, write_release

from dpsd.config import parse_config
from dpsd.errors import UserError
from dpsd.privacy.inherited import DpTraining
from dpsd.privacy.ledger import Ledger, image_hashes
from dpsd.privacy.plan import inherit, make_plan
from dpsd.privacy.signature import public_text, sign, signing_key
from dpsd.privacy.statement import file_hashes, plan_facts
from dpsd.privacy.verify import verify_release, what_was_checked

TRAINING = DpTraining("t", 1.3, 0.01, 500, 1.0, 50_000, 1e-5)
PLANS = {
    "pure": {"route": "single", "unit": "answer", "mechanism": "randomized_response",
             "epsilon": 1.0, "answers": 1000},
    "gaussian": {"route": "single", "unit": "answer", "mechanism": "gaussian", "epsilon": 2.0,
                 "answers": 500},
    "seeded": {"route": "single", "unit": "answer", "mechanism": "randomized_response",
               "epsilon": 1.0, "answers": 1000, "insecure_seeded_noise": True},
    "votes": {},
    "inherited": {"route": "inherited", "mechanism": "none", "epsilon": None},
}  # fmt: skip
TREE = {"owner": "Clinic, dpo@clinic.example", "retention": "90 days"}


def config_of(kind):
    tree = ensemble_config(**PLANS[kind]) | TREE
    if kind not in ("votes", "inherited"):
        tree |= {"teacher": {}}
    data = {"name": "none", "shape": list(SHAPE), "classes": 4, "dataset": "clinic", "units": 900}
    return parse_config(tree | {"data": data})


def plan_of(config):
    plan = make_plan(config)
    return inherit(plan, TRAINING) if plan.route == "inherited" else plan


def enter(folder, name, config, answers=7):
    plan, ledger = plan_of(config), Ledger(folder, "t")
    ledger.open_run(*plan.records(name, "2024-01-01"))
    asked = torch.randint(256, (answers, *SHAPE), dtype=torch.uint8)
    ledger.charge(name, 0, image_hashes(asked))
    return plan


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Of each kind a release with an earlier run, its ledger's folder and the owner's key."""
    found = {}
    for kind in PLANS:
        folder, config = tmp_path_factory.mktemp(kind), config_of(kind)
        enter(folder / "ledger", "first", config)
        if kind == "votes":
            Ledger(folder / "ledger", "t").set_allowance("record", 50.0, 1e-6)
        plan = enter(folder / "ledger", "second", config)
        facts = stated(config, plan, "second", "t", folder / "ledger")
        write_release(folder / "release", facts, config, folder / "ledger")
        public = signing_key(folder / "ledger").public_key()
        (folder / "owner.pub").write_text(public_text(public))
        found[kind] = folder
    return found


def copied(folder, tmp_path):
    shutil.copytree(folder / "release", tmp_path / "release")
    return tmp_path / "release"


def checks(folder, release):
    """Which of the three commands accept the release."""
    accepted = set()
    for name, options in {
        "plain": {},
        "key": {"key": folder / "owner.pub"},
        "ledger": {"ledger": folder / "ledger"},
    }.items():
        try:
            verify_release(release, **options)
            accepted.add(name)
        except UserError as e:
            assert "\n" not in str(e)
    return accepted


@pytest.mark.parametrize("kind", PLANS)
def test_the_original_is_accepted_by_all(originals, kind):
    folder = originals[kind]
    assert checks(folder, folder / "release") == {"plain", "key", "ledger"}


def follow_config(facts, tree):
    """Let every fact that follows from a configuration follow from the changed one."""
    config = parse_config(json.loads(json.dumps(tree)))
    plan = make_plan(config)
    if plan.route == "inherited":
        plan = inherit(plan, DpTraining(**facts["training"]))
    facts.update(json.loads(json.dumps(plan_facts(config, plan, facts["versions"]))))


def both(section, **changes):
    """Change config.yaml, and all facts that follow from it."""

    def change(facts, tree):
        (tree[section] if section else tree).update(changes)
        follow_config(facts, tree)

    return change


def fact(**changes):
    return lambda facts, tree: facts.update(changes)


def within(name, **changes):
    return lambda facts, tree: facts[name].update(changes)


def drop_earlier(facts, tree):
    facts["earlier_runs"] = []


def cheaper_earlier(facts, tree):
    event = facts["earlier_runs"][0]["event"]
    event.update({k: v * 100 for k, v in event.items() if k == "sigma"})
    event.update({k: v / 100 for k, v in event.items() if k == "epsilon"})


def fewer_answers(facts, tree):
    facts["answers_made"] = 1


def quieter_training(facts, tree):
    facts["training"]["noise_multiplier"] = 9.0
    follow_config(facts, tree)


def other_head(facts, tree):
    facts["ledger"]["checksum"] = "0" * 32


def earlier_head(facts, tree):
    facts["ledger"]["entries"] = 1


TWO_LINES = "Clinic\n6. Certified: by the authority"
PLAIN, LEDGER, KEY = "plain", "ledger", "key"
TAMPERINGS = {
    # Facts alone: plain verify refuses, since config.yaml gives something else.
    "eps 1 made 0.01": ("pure", within("release", epsilon=0.01), {PLAIN}),
    "mechanism's eps made 0.01": ("pure", within("mechanism", epsilon_per_ask=0.01), {PLAIN}),
    "cap 1,000 made 10": ("pure", fact(answers_cap=10), {PLAIN}),
    "two asks made one": ("pure", fact(asks_per_image=0), {PLAIN}),
    "seeded made private": ("seeded", fact(seeded_noise=False, private=True), {PLAIN}),
    "seeded said to be private": ("seeded", fact(private=True), {PLAIN}),
    "single relabelled as a record ensemble": (
        "pure", fact(route="ensemble", unit="record", scope="total"), {PLAIN}),
    "record as user": ("votes", fact(unit="user"), {PLAIN}),
    "relation replaced": ("votes", fact(relation="two data sets that differ in a row"), {PLAIN}),
    "trust replaced": ("pure", fact(trust="nobody needs to be trusted"), {PLAIN}),
    "covered widened": ("pure", fact(covered="everything"), {PLAIN}),
    "not covered emptied": ("pure", fact(not_covered="nothing"), {PLAIN}),
    "noise replaced": ("gaussian", within("mechanism", noise="much"), {PLAIN}),
    "derivation replaced": ("gaussian", within("mechanism", derivation="trust me"), {PLAIN}),
    "sensitivity halved": ("gaussian", within("mechanism", sensitivity=0.5), {PLAIN}),
    "sensitivity halved everywhere": (
        "gaussian",
        lambda f, t: (f["mechanism"].update(sensitivity=0.5), f["release"].update(sensitivity=0.5)),
        {PLAIN}),
    "sigma doubled everywhere": (
        "gaussian",
        lambda f, t: (f["mechanism"].update(sigma=99.0), f["release"].update(sigma=99.0)),
        {PLAIN}),
    "deltas replaced": ("votes", fact(deltas=[0.4]), {PLAIN}),
    "delta replaced": ("votes", fact(delta=0.4), {PLAIN}),
    "accountant replaced": ("votes", fact(accountant="an auditor of repute"), {PLAIN}),
    "versions invented": ("votes", fact(versions={"dpsd": "9", "auditor": "1"}), {PLAIN}),
    "number of units": ("votes", fact(units=10**9), {PLAIN}),
    "one histogram cell": ("votes", within("release", cells=1), {PLAIN}),
    "owner replaced": ("votes", fact(owner="Another Clinic"), {PLAIN}),
    "data set renamed": ("votes", fact(dataset="public-data"), {PLAIN}),
    "declared public widened": ("pure", within("declared_public", data="public"), {PLAIN}),
    "released relabelled": ("pure", fact(released="nothing"), {PLAIN}),
    "an invented fact": ("pure", fact(certified=True), {PLAIN}),
    "steps of the training": ("inherited", within("release", steps=5), {PLAIN}),
    "a line of its own in a date": (
        "pure", fact(finished="2024-01-01.\n6. Certified: by the authority"), {PLAIN}),
    "a line of its own in the owner": (
        "votes",
        lambda f, t: (f.update(owner=TWO_LINES), t.update(owner=TWO_LINES)),
        {PLAIN},
    ),
    "another teacher": ("pure", fact(teacher="u"), {PLAIN}),
    "more answers than the cap": ("pure", fact(answers_made=2000), {PLAIN}),
    "an earlier run with an invented field": (
        "pure", lambda f, t: f["earlier_runs"][0].update(audited=True), {PLAIN}),
    "an open run counted as itself": (
        "pure", lambda f, t: f["earlier_runs"][0].update(run="second"), {PLAIN}),
    # A consistent lie: config.yaml and facts agree. The ledger knows better.
    "config: eps 1 made 0.01": ("pure", both("privacy", epsilon=0.01), {LEDGER}),
    "config: cap 1,000 made 10": ("pure", both("privacy", answers=10), {LEDGER}),
    "config: seeded made private": (
        "seeded", both("privacy", insecure_seeded_noise=False), {LEDGER}),
    "config: gaussian made quieter": ("gaussian", both("privacy", epsilon=0.1), {LEDGER}),
    "config: votes made quieter": ("votes", both("privacy", epsilon=0.1), {LEDGER}),
    "config: asks": ("pure", both("privacy", asks_per_image=2), {LEDGER}),
    "config: record as user": (
        "votes",
        lambda f, t: (t["data"].update(user_ids="x"), both("privacy", unit="user")(f, t)),
        {LEDGER}),
    "config: ensemble relabelled as a single teacher": (
        "votes",
        both("privacy", route="single", unit="answer", mechanism="randomized_response"),
        {LEDGER}),
    "training made quieter": ("inherited", quieter_training, {LEDGER}),
    # What the ledger alone knows.
    "an earlier run dropped": ("pure", drop_earlier, {LEDGER}),
    "an earlier ensemble dropped": ("votes", drop_earlier, {LEDGER}),
    "an earlier run made cheaper": ("votes", cheaper_earlier, {LEDGER}),
    "an earlier run unseeded": (
        "seeded", lambda f, t: f["earlier_runs"][0].update(seeded_noise=False), {LEDGER}),
    "fewer answers made": ("pure", fewer_answers, {LEDGER}),
    "another run's id": ("pure", fact(run="third"), {LEDGER}),
    "a budget dropped": ("votes", fact(budgets=[]), {LEDGER}),
    "begun at another time": ("pure", fact(started="2020-01-01"), {LEDGER}),
    "another ledger's head": ("pure", other_head, {LEDGER}),
    "the head of an emptier ledger": ("pure", earlier_head, {LEDGER}),
    "another owner of the teacher's ledger": ("pure", within("ledger", owner="u"), {PLAIN}),
    "another owner of the data set's ledger": ("votes", within("ledger", owner="u"), {LEDGER}),
    # What nothing but the signature vouches for.
    "config: another person is responsible": ("votes", both("", owner="Another Clinic"), set()),
    "config: another data set": ("votes", both("data", dataset="public-data"), set()),
    "config: more units": ("votes", both("data", units=50_000), set()),
    "no near-duplicates": (
        "pure",
        fact(near_duplicates={"share": 0.0, "distance": 8.0, "compared": 7, "sampled": 7}),
        set()),
    "ended at another time": ("pure", fact(finished="2020-01-01"), set()),
    "other runs on the data": ("pure", fact(other_runs=3), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering(originals, tmp_path, name):
    kind, change, refused_by = TAMPERINGS[name]
    folder = originals[kind]
    release = copied(folder, tmp_path)
    forge(release, change)
    accepted = checks(folder, release)
    assert KEY not in accepted  # a fresh key is not the owner's
    everybody = {PLAIN, LEDGER} if PLAIN not in refused_by else set()
    assert accepted == everybody - refused_by


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("epsilon 1 per answer", "epsilon 0.01 per answer"),
        lambda t: t + "\nThis release is certified.\n",
        lambda t: t.replace("1. Protected", "1. Fully protected"),
    ],
)
@pytest.mark.parametrize("name", ["statement.txt", "README.md"])
def test_texts_say_what_the_facts_say(originals, tmp_path, name, change):
    release = copied(originals["pure"], tmp_path)
    path = release / name
    text = change(path.read_text())
    changed = text != path.read_text()
    path.write_text(text)
    facts = json.loads((release / "statement.json").read_text())
    (release / "statement.json").write_text(json.dumps(facts | {"files": file_hashes(release)}))
    sign(release, Ed25519PrivateKey.generate())
    appended = name == "README.md" and text.endswith("certified.\n")
    assert changed
    if appended:  # the card may say more beside the statement; the key tells whose words they are
        assert checks(originals["pure"], release) == {"plain", "ledger"}
    else:
        assert checks(originals["pure"], release) == set()


def test_output_says_what_was_checked_and_what_cannot_be(originals):
    folder = originals["inherited"]
    key, ledger = folder / "owner.pub", folder / "ledger"
    facts = verify_release(folder / "release", key=key, ledger=ledger)
    plain = "\n".join(what_was_checked(facts, "f", key=None, ledger=None))
    full = "\n".join(what_was_checked(facts, "f", key=key, ledger=ledger))
    for text in (plain, full):
        assert "not checked: that the code was run as stated" in text
    assert "not checked: whose key it is" in plain and "whose key it is" not in full
    assert "which runs came before; compare with --ledger, as the training" in plain
    assert "restored whole from a backup" in full and "restored whole" not in plain
