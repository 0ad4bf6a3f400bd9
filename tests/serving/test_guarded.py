"""From images over HTTP to a level: a copier is blocked, others are not, a dry run only logs."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from dpsd.config import PublicFacts
from dpsd.guard.accounts import add_account
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.serving.app import Service, make_app
from dpsd.serving.calibration import calibrate_guard
from dpsd.serving.settings import (
    LevelSettings,
    LimitSettings,
    PolicySettings,
    ServeSettings,
    TierSettings,
)

FACTS = PublicFacts(shape=(1, 8, 8), classes=3, class_names=("a", "b", "c"))
PEPPER = bytes(32)
PATTERNS = torch.from_numpy(np.random.default_rng(3).integers(40, 200, (3, 1, 8, 8))).float()


def model(images):
    """Classes by the nearest of three patterns; features are sixteen means of pixels."""
    x = images.float()
    apart = ((x[:, None] - PATTERNS[None]) ** 2).mean((2, 3, 4)) / 400
    features = torch.nn.functional.avg_pool2d(x, 2).flatten(1) / 255
    return (-apart).softmax(1), features


def honest(n, seed):
    """Noisy patterns."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 3, n)
    noisy = PATTERNS.numpy()[which] + rng.normal(0, 12, (n, 1, 8, 8))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def other(n, seed):
    """Smooth pictures that have nothing to do with the patterns."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (n, 1, 2, 2)))
    return torch.nn.functional.interpolate(coarse, (8, 8), mode="bilinear").numpy().astype(np.uint8)


@pytest.fixture(scope="module")
def reference():
    return calibrate_guard(model, torch.from_numpy(honest(1_500, 0)), alpha=0.01, accounts=1_200,
                           seed=1, say=lambda text: None)  # fmt: skip


@pytest.fixture
def serving(tmp_path, reference):
    opened = []

    def start(dry_run, **policy):
        store = SqliteStore(tmp_path / f"{dry_run}.sqlite")
        settings = ServeSettings(
            tiers={"open": TierSettings(per_minute=100_000)},
            limits=LimitSettings(images_per_minute=100_000, network_images_per_minute=100_000),
            policy=PolicySettings(dry_run=dry_run, **policy),
        )
        service = Service(FACTS, model, {}, settings, store, PEPPER, bytes(32),
                          reference=replace(reference))  # fmt: skip
        guard = service.guard()
        opened.append(guard)
        return TestClient(make_app(service, guard)), store, guard

    yield start
    for guard in opened:
        guard.close()


def ask(client, guard, key, images):
    """Statuses of requests of 32 images; what was asked is looked at before the next."""
    found = []
    for part in np.split(images, len(images) // 32):
        file = io.BytesIO()
        np.save(file, part)
        headers = {"authorization": f"Bearer {key}", "content-type": "application/x-npy"}
        answer = client.post("/v1/predict", content=file.getvalue(), headers=headers)
        guard.drain()
        found.append((answer.status_code, answer.json()))
    return found


def test_a_copier_is_slowed_shown_less_and_blocked_and_honest_users_are_not(serving):
    levels = tuple(x for x in PolicySettings().levels if not x.work)
    client, store, guard = serving(dry_run=False, levels=levels)
    (good, good_key), (bad, bad_key) = (add_account(store, PEPPER, n, "open") for n in "gb")
    assert {status for status, _ in ask(client, guard, good_key, honest(640, 7))} == {200}
    found = ask(client, guard, bad_key, other(1_280, 8))
    assert found[0][0] == 200 and found[-1][0] == 403
    assert found[-1][1]["error"]["code"] == "blocked"
    assert store.watched(bad.id).level == "block" and store.watched(good.id).level == ""
    assert "do not come from where honest ones" in store.watched(bad.id).reason
    answered = sum(status == 200 for status, _ in found)
    assert store.spent(bad.id) == 32 * answered < 1_280  # what was refused costs nothing


def test_a_copier_that_does_no_work_is_answered_no_more(serving):
    levels = (LevelSettings(name="challenge", at=0.5, work=True),)
    client, store, guard = serving(dry_run=False, levels=levels)
    key = add_account(store, PEPPER, "b", "open")[1]
    status, said = ask(client, guard, key, other(1_280, 8))[-1]
    assert status == 428 and said["error"]["code"] == "work_needed" and said["bits"] > 17


def test_a_dry_run_decides_and_changes_no_answer(serving):
    client, store, guard = serving(dry_run=True)
    bad, key = add_account(store, PEPPER, "b", "open")
    found = ask(client, guard, key, other(1_280, 8))
    assert {status for status, _ in found} == {200} and "probabilities" in found[-1][1]
    levels = [e for e in store.events(bad.id) if e["kind"] == "level"]
    assert levels[-1]["level"] == "block" and levels[-1]["dry_run"] is True
