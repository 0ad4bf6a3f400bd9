"""The examples of docstrings are what the code says."""

import doctest

import pytest
import torch

import dpsd.attacks.extraction
from dpsd import defences
from dpsd.attacks.extraction import endpoint
from dpsd.defences import DEFENCES


def run(text: str | None, names: dict[str, object]) -> dict[str, object]:
    """Run a docstring's examples; returns the names and what the examples make."""
    example = doctest.DocTestParser().get_doctest(text or "", names, "example", None, None)
    assert example.examples
    said = list[str]()
    runner = doctest.DocTestRunner(verbose=False)
    assert not runner.run(example, out=said.append, clear_globs=False).failed, "".join(said)
    return example.globs


@pytest.mark.parametrize("name", DEFENCES)
def test_every_defence_has_an_example(name: str) -> None:
    given = run(defences.__doc__, vars(defences) | {"torch": torch})
    run(DEFENCES[name].__doc__, given)


def test_the_example_of_an_endpoint() -> None:
    assert dpsd.attacks.extraction.Endpoint is endpoint.Endpoint
    run(endpoint.Endpoint.__doc__, vars(endpoint))
