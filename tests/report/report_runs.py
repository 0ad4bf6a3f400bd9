"""Runs for the tests of reports: a tiny real one, and attack reports made by hand."""

import json

import numpy as np

from dpsd.attacks.audit.bounds import Bound
from dpsd.attacks.store import attack_folder, save_report, save_scores

CLAIM = {"delta": 1e-5, "seeded_noise": False}
RNG = np.random.default_rng(0)


def add_attacks(run):
    """Reports and scores as the attacks write them, with few numbers."""
    _membership(run)
    _audit(run)
    _extraction(run)


def _membership(run):
    member = np.arange(200) % 2 == 0
    scores = RNG.normal(size=200) + member
    canary = np.zeros(200, dtype=bool)
    targets = {"run student": {"accuracy": 0.5, "accuracy_on_members": 0.5}}
    folder = attack_folder(run, "membership")
    save_scores(
        folder,
        {"run student/rmia": scores, "run student/member": member, "run student/canary": canary},
        {"targets": targets},
    )
    cell = {
        "target": "run student", "rows": "ordinary", "attack": "rmia", "members": 100,
        "non_members": 100, "auc": 0.76, "auc_interval": [0.7, 0.82], "placebo": None,
        "tpr_at": {"0.01": {"needed": 500, "non_members": 100}}, "verdict": "leaks",
    }  # fmt: skip
    save_report(folder, {
        "schema_version": 1, "attack": "membership", "unit": "record", "budget": "fast", "seed": 0,
        "fpr": 0.01, "control": {"auc": 0.99, "needed": 0.9, "power": True}, "targets": targets,
        "cells": [cell],
    })  # fmt: skip


def _audit(run):
    bound = Bound("two worlds, Clopper-Pearson", "epsilon", "answer", 3.0, 7.9, 8.0, 1e-5, 0.95, 99)
    save_report(attack_folder(run, "audit"), {
        "schema_version": 1, "attack": "audit", "budget": "fast", "seed": 0, "claim": CLAIM,
        "levels": {"mechanism": [bound.facts()]}, "skipped": {"one_run": "there are no data"},
        "verdict": "no power", "verdicts": {"mechanism": "no power"},
    })  # fmt: skip


def _extraction(run):
    points = [{"asked": n, "accuracy": 0.5, "agreement": a, "interval": [a - 0.1, a + 0.1]}
              for n, a in ((100, 0.6), (1000, 0.8))]  # fmt: skip
    cell = {"target": "student", "attack": "basic", "defence": "none", "seed": 0, "refused": None,
            "curve": points}  # fmt: skip
    save_report(attack_folder(run, "extraction"), {
        "schema_version": 1, "budget": "fast", "model": "cnn-tiny", "pool": "same", "rows": 100,
        "labelled": True, "ladder": [100, 1000], "targets": {"student": {}}, "defences": ["none"],
        "cells": [cell], "best": [{"target": "student", "defence": "none", "attack": "basic",
                                   "agreement": 0.8}],
    })  # fmt: skip


def plant(folder, marker):
    """Put a marker as a new key and in texts of every JSON file, and as a line of JSON lines."""
    planted = []
    for path in sorted(folder.rglob("*.json")):
        tree = json.loads(path.read_text())
        tree[marker] = marker
        for key, value in tree.items():
            if isinstance(value, str):
                tree[key] = f"{value} {marker}"
        path.write_text(json.dumps(tree))
        planted.append(path)
    for path in sorted(folder.rglob("*.jsonl")):
        with path.open("a") as f:
            f.write(json.dumps({"round": 0, "node": marker}) + "\n")
        planted.append(path)
    return planted
