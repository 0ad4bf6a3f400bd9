"""The trainable generator: it starts again where told, goes on after a stop, and stays varied."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from products import tiny_config

from dpsd.config import parse_config
from dpsd.config.sections import GeneratorConfig
from dpsd.generator.adversarial import Adversarial
from dpsd.generator.fields import untrained
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.near_duplicates import kept_queries
from dpsd.runs.release import Labeller, load_student
from dpsd.runs.samples import draw_samples
from dpsd.student.student import Student
from dpsd.transcription.transcribe import transcribe

CPU = torch.device("cpu")
ALONE = {"kind": "adversarial", "network": "fields", "steps": 2, "untrained": 0.5}


def parts(**generator):
    """A synthesizer and an untrained student of grey digits."""
    config = parse_config(
        {"data": {"name": "digits"}, "generator": ALONE | generator, "privacy": {"epsilon": 1.0}}
    )
    student = Student(
        config, config.facts, rounds=2, queries_per_round=100, soft_targets=True, device=CPU,
        dtype=torch.float32,
    )  # fmt: skip
    return Synthesizer(config, config.facts, CPU), student


def weights(synthesizer):
    return torch.cat([p.detach().flatten() for p in synthesizer.adversarial.model.parameters()])


@pytest.mark.parametrize("restart, again", [(None, []), (1, [0, 1, 2, 3, 4]), (2, [0, 2, 4])])
def test_weights_are_drawn_anew_after_the_configured_rounds(restart, again):
    # Two steps at this rate move a weight by far less than a new draw does.
    synthesizer, student = parts(restart=restart, lr=1e-5)
    moved, before = [], weights(synthesizer)
    for round in range(5):
        synthesizer.update(student, round=round)
        now = weights(synthesizer)
        moved.append(float((now - before).abs().mean()))
        before = now
    assert [round for round, by in enumerate(moved) if by > 1e-3] == again
    assert min(moved) > 0


def test_a_student_that_is_wholly_sure_leaves_the_generator_finite():
    """Probabilities of exactly 0, as of a student that names one class for whatever it sees."""
    synthesizer, student = parts()
    with torch.no_grad():
        student.model.head.bias[0] = 1e4
    losses = synthesizer.update(student, round=0)
    assert all(np.isfinite(loss) for loss in losses.values())
    assert bool(weights(synthesizer).isfinite().all())


def test_rounds_are_addressed_by_position_and_a_resumed_one_goes_on():
    one, student = parts(restart=2)
    for round in range(3):
        one.update(student, round=round)
    other, _ = parts(restart=2)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for round in range(3, 5):
        images = [s.sample(300, student, round=round) for s in (one, other)]
        assert torch.equal(*images)
        for synthesizer in (one, other):
            synthesizer.update(student, round=round)
        assert torch.equal(weights(one), weights(other))
    assert not torch.equal(one.sample(300, student, round=5), one.sample(300, student, round=6))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_untrained_networks(share):
    synthesizer, _ = parts(untrained=share, latent=8)
    images = synthesizer.adversarial.sample(200, torch.Generator().manual_seed(3))
    count = round(200 * share)
    assert len(images) == 200
    if count:
        rng = torch.Generator().manual_seed(3)
        assert torch.equal(images[:count], untrained(count, (1, 28, 28), 8, rng, CPU))
    if count < 200:  # the rest follow the trained weights
        for weight in synthesizer.adversarial.model.parameters():
            weight.detach().mul_(-2)
        changed = synthesizer.adversarial.sample(200, torch.Generator().manual_seed(3))
        assert torch.equal(changed[:count], images[:count])
        assert not torch.equal(changed[count:], images[count:])


class Halves(torch.nn.Module):
    """Class 0 where the left half of an image is brighter, class 1 where the right half is."""

    def forward(self, x):
        left, right = x.mean((1, 2)).tensor_split(2, dim=1)
        return 30 * torch.stack([left.mean(1), right.mean(1)], 1)


@pytest.mark.parametrize("network", ["decoder", "fields"])
def test_training_makes_images_of_which_the_student_is_sure(network):
    config = GeneratorConfig.model_validate(
        ALONE | {"network": network, "steps": 30, "lr": 0.01, "activation": 0, "disagreement": 0}
    )
    adversarial = Adversarial(config, (1, 12, 12), 0, CPU)
    z = torch.randn(500, config.latent, generator=torch.Generator().manual_seed(1))

    def sureness():
        with torch.no_grad():
            p = Halves()(adversarial.model.train()(z)).softmax(1)
        assert 0.3 < p[:, 0].mean() < 0.7  # neither class is given up
        return float(p.amax(1).mean())

    before = sureness()
    adversarial.update(SimpleNamespace(model=Halves(), average=Halves()), torch.Generator())
    assert 1 - sureness() < 0.6 * (1 - before)


def test_a_run_with_the_generator_alone_does_not_collapse(tmp_path_factory, tmp_path):
    tree = tiny_config(tmp_path_factory.getbasetemp() / "products").model_dump(mode="json")
    tree["generator"] = ALONE | {"restart": 1, "steps": 5}
    tree["loop"]["rounds"] = 4
    tree["privacy"] |= {"mechanism": "none", "epsilon": None, "answers": 2000}
    run = transcribe(parse_config(tree), out=tmp_path / "run")
    asked = list(kept_queries(run.bank))
    assert len(asked) == 4
    student = Labeller(load_student(run.release), CPU)
    for images in asked:
        shares = torch.bincount(student.predict(images).argmax(1), minlength=10) / len(images)
        assert (shares > 0.02).sum() >= 4 and shares.max() < 0.8
        assert len(images.flatten(1).unique(dim=0)) == 500
    draw_samples(run, 300).write(tmp_path / "synthetic.npz")
    with np.load(tmp_path / "synthetic.npz") as file:
        assert len(np.unique(file["images"], axis=0)) == 300
