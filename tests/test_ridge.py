"""The student that is solved for: least squares on released vote shares."""

import pytest
import torch

from dpsd.config import parse_config
from dpsd.data import PublicFacts
from dpsd.errors import UserError
from dpsd.generator.bank import Bank
from dpsd.linear import RidgeNet
from dpsd.privacy.mechanisms import Answers
from dpsd.privacy.votes import NoisyVotes
from dpsd.ridge import RidgeStudent, best_scale, cross_entropy, ridge_regression

SHAPE, K = (1, 12, 12), 3
FACTS = PublicFacts(SHAPE, K, ("a", "b", "c"))


def config(**student):
    student = {"model": "scatter-ridge", "loss": "shares"} | student
    return parse_config(
        {
            "data": {"name": "none", "shape": list(SHAPE), "classes": K},
            "teacher": {"model": "scatter-linear", "shards": 20},
            "student": student,
            "loop": {"rounds": 2},
            "privacy": {
                "route": "ensemble", "unit": "record", "mechanism": "noisy_votes", "epsilon": 1.0,
                "answers": 400,
            },
        }
    )  # fmt: skip


def student():
    return RidgeStudent(
        config(), FACTS, rounds=2, queries_per_round=200, soft_targets=False,
        device=torch.device("cpu"), dtype=torch.bfloat16,
    )  # fmt: skip


def taught(noise, rows=200, seed=0):
    """Images and the shares that a linear rule on their features gives, with noise."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (rows, *SHAPE), generator=rng, dtype=torch.uint8)
    f = RidgeNet(SHAPE, K).features(images.float() / 255)
    rule = torch.randn(f.shape[1], K, generator=torch.Generator().manual_seed(9)) * 2
    clean = (f @ rule).softmax(1)
    return images, clean, clean + noise * torch.randn(rows, K, generator=rng)


def test_regression_is_the_normal_equations_in_either_form():
    rng = torch.Generator().manual_seed(0)
    for rows, width in ((40, 7), (30, 50)):  # primal, dual
        x = torch.randn(rows, width, generator=rng)
        t = x[:, :2] * 3 - 1 + 0.1 * torch.randn(rows, 2, generator=rng)
        w, b = ridge_regression(x, t)
        found = [
            p for p in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
            if torch.allclose(w, by_hand(x, t, p), atol=1e-3)
        ]  # fmt: skip
        assert len(found) >= 1
        assert torch.allclose(b, t.mean(0) - x.mean(0) @ w, atol=1e-4)


def by_hand(x, t, penalty):
    c = (x - x.mean(0)).double()
    left = c.mT @ c + penalty * torch.eye(x.shape[1])
    return torch.linalg.solve(left, c.mT @ (t - t.mean(0)).double()).float()


def test_penalty_grows_with_the_noise():
    x = torch.randn(100, 80, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(100, 1, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(ridge_regression(x, x[:, :1])[0], by_hand(x, x[:, :1], 0.003), atol=1e-3)
    assert torch.allclose(ridge_regression(x, noise)[0], by_hand(x, noise, 3.0), atol=1e-3)


def test_noise_is_averaged_over_rounds_and_a_checkpoint_gives_the_same(tmp_path):
    images, clean, noisy = taught(0.3, rows=400)
    bank, learner = Bank(400, SHAPE, K), student()
    for part in range(2):
        rows = slice(200 * part, 200 * part + 200)
        bank.add(images[rows], noisy[rows])
        learner.fit(bank, 200)
    again = student()
    again.fit(bank, 400)  # all at once, as after a stop
    assert torch.equal(again.predict(images), learner.predict(images))
    third = student()
    third.load_state_dict(learner.state_dict())
    assert torch.equal(third.predict(images), learner.predict(images))
    error = (learner.predict(images) - clean).abs().mean()
    assert error < (noisy - clean).abs().mean() / 3


def test_shares_are_unbiased_counts():
    mechanism = NoisyVotes(K, voters=20, sigma=2.0)
    answers = Answers(torch.tensor([[25, -3, 1], [0, 10, 10]]))
    expected = torch.tensor([[1.25, -0.15, 0.05], [0.0, 0.5, 0.5]])
    assert torch.allclose(student().read(mechanism, answers), expected)


def test_scale_is_the_one_that_foretells_votes_best():
    logits = torch.randn(500, K, generator=torch.Generator().manual_seed(0))
    shares = (4 * logits).softmax(1)
    assert best_scale(logits, shares) == 4
    assert cross_entropy(torch.zeros(5, K), shares[:5]) == pytest.approx(torch.tensor(3.0).log())


@pytest.mark.parametrize("student", [{"loss": "dkd"}, {"model": "cnn-small"}])
def test_shares_and_scatter_ridge_belong_together(student):
    with pytest.raises(UserError, match=r"student.loss: .*accepted: shares with scatter-ridge"):
        config(**student)
