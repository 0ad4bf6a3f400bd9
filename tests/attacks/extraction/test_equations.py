"""Weights of students on fixed features are solved from their answers."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from extraction_digits import agreement, clones, digits, holdings, victim

from dpsd.attacks.extraction.clone import predict
from dpsd.attacks.extraction.weights.equations import SOLVED, equations, known_features, solved
from dpsd.attacks.extraction.weights.linear import Solution, from_likelihood, from_logits
from dpsd.defences import Labels, Rounding
from dpsd.errors import UserError
from dpsd.models import public_features
from dpsd.models.networks import build_model

FEATURES = 81 * 2 * 2  # of an 8 x 8 image


def test_a_student_is_solved_from_as_many_answers_as_a_class_has_weights() -> None:
    ask, held = victim("scatter-bn"), holdings(round(1.2 * (FEATURES + 1)), model="scatter-bn")
    (clone,) = clones(equations, held, ask=ask)
    assert agreement(clone, ask) > 0.999
    images = digits()[0][1400:]
    assert float((predict(clone.model, images) - ask(images)).abs().max()) < 1e-3


def test_rounding_and_labels_hide_weights_but_not_the_classes() -> None:
    ask, held = victim("scatter-bn"), holdings(390, model="scatter-bn")
    (exact,) = clones(equations, held, ask=ask)
    for defence in (Rounding(2), Labels()):
        (clone,) = clones(equations, held, ask=ask, defences=[defence])
        assert 0.85 < agreement(clone, ask) < agreement(exact, ask)


def test_fewer_answers_than_weights_give_the_smallest_solution() -> None:
    """Checked against numpy's least squares, which takes the smallest solution too."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(20, 30, generator=rng, dtype=torch.float64)
    weight = torch.randn(4, 30, generator=rng).double()
    bias = torch.randn(4, generator=rng).double()
    answers = (features @ weight.T + bias).softmax(1)
    found = from_logits(features, answers.float())
    logits = features @ found.weight.T + found.bias
    torch.testing.assert_close(logits.softmax(1), answers, atol=1e-4, rtol=0)
    spread = features.std(0, unbiased=False)
    columns = ((features - features.mean(0)) / spread).numpy()
    logs = answers.log() - answers.log().mean(1, keepdim=True)
    smallest = np.linalg.lstsq(columns, (logs - logs.mean(0)).numpy(), rcond=None)[0]
    torch.testing.assert_close(
        found.weight * spread, torch.from_numpy(smallest.T), atol=1e-3, rtol=1e-3
    )


def test_labels_give_the_direction_of_the_weights() -> None:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 5, generator=rng)
    weight = 3 * torch.randn(3, 5, generator=rng)
    answers = torch.nn.functional.one_hot((features @ weight.T).argmax(1), 3).float()
    found = from_likelihood(features, answers).weight
    true, found = weight - weight.mean(0), (found - found.mean(0)).float()
    assert float(torch.cosine_similarity(true.flatten(), found.flatten(), dim=0)) > 0.99


def test_other_architectures_are_refused() -> None:
    with pytest.raises(UserError, match="model: cnn-tiny; equations solves scatter-linear, "):
        clones(equations, holdings(20), ask=victim("scatter-bn"))


@pytest.fixture
def few_components(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`scatter-public` with 60 components of 200 crops, in place of 1,000 of 4,096."""
    monkeypatch.setattr(public_features, "_CROPS", 200)
    monkeypatch.setattr(public_features, "COMPONENTS", 60)
    public_features.public_components.cache_clear()
    yield
    public_features.public_components.cache_clear()


def test_a_student_on_public_components_is_solved(few_components: None) -> None:
    """Half of the crops are asked about, 1.2 for each weight of a class; the others measure."""
    crops = public_features.public_crops((1, 12, 12), 144)
    rng = torch.Generator().manual_seed(0)
    net = build_model("scatter-public", (1, 12, 12), 3)
    with torch.no_grad():
        net.head.weight.copy_(torch.randn(net.head.weight.shape, generator=rng))
        net.head.bias.copy_(torch.randn(3, generator=rng))
    net.requires_grad_(False)
    asked, others = crops[:72], crops[72:]
    solution = from_logits(known_features("scatter-public", asked), predict(net, asked))
    copy = solved("scatter-public", (1, 12, 12), solution)
    said, copied = predict(net, others), predict(copy, others)
    assert torch.equal(copied.argmax(1), said.argmax(1))
    torch.testing.assert_close(copied, said, atol=1e-3, rtol=0)


@pytest.mark.parametrize("model", SOLVED)
def test_a_solution_becomes_a_model_of_the_architecture(model: str, few_components: None) -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 1, 12, 12), dtype=torch.uint8, generator=rng)
    features = known_features(model, images)
    weight = torch.randn(3, features.shape[1], generator=rng).double()
    bias = torch.randn(3, generator=rng).double()
    said = predict(solved(model, (1, 12, 12), Solution(weight, bias)), images)
    expected = (features.double() @ weight.T + bias).softmax(1).float()
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=0)
