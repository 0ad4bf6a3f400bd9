"""What attacks ask, and the parts that they are made of, against naive computations."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from extraction_digits import FACTS, clones, holdings, pool, victim
from torch import Tensor

from dpsd.attacks.extraction.adaptive.domain import set_statistics
from dpsd.attacks.extraction.clone import Attack
from dpsd.attacks.extraction.endpoint import Service
from dpsd.attacks.extraction.labels.active import active_centres, active_margin, far_apart
from dpsd.attacks.extraction.labels.boundary import boundary
from dpsd.attacks.extraction.labels.hard import augmented, basic, interpolated, mixed, mixup
from dpsd.attacks.extraction.probabilities.marich import marich
from dpsd.attacks.extraction.probabilities.soft import erased
from dpsd.attacks.extraction.probabilities.spsg import spsg
from dpsd.attacks.extraction.probabilities.superpixels import superpixels
from dpsd.attacks.extraction.rounds import Candidates
from dpsd.attacks.extraction.without_data.dfme import dfme
from dpsd.attacks.extraction.without_data.synthetic import synthetic
from dpsd.defences import Rounding
from dpsd.models.networks import build_model


def asked(attack: Attack, *ladder: int) -> list[bytes]:
    """The images that reached a victim, in their order."""
    seen, model = list[Tensor](), victim()

    def ask(images: Tensor) -> Tensor:
        seen.append(images)
        return model(images)

    with Service(ask, FACTS, budget=ladder[-1]) as endpoint:
        list(attack(endpoint, holdings(*ladder, least_steps=5, passes=1)))
    return [image.numpy().tobytes() for image in torch.cat(seen)]


POOL = {image.numpy().tobytes() for image in pool()}


@pytest.mark.parametrize("attack", [basic, active_margin, active_centres, marich])
def test_images_of_the_pool_are_asked_once_each(attack: Attack) -> None:
    images = asked(attack, 40, 90)
    assert len(images) == len(set(images)) == 90 and set(images) <= POOL


@pytest.mark.parametrize("attack", [synthetic, dfme])
def test_attacks_without_data_leave_the_pool_alone(attack: Attack) -> None:
    images = asked(attack, 150)
    assert len(images) == 150 and not set(images) & POOL


def test_a_pool_that_is_spent_is_asked_again() -> None:
    images = Counter(asked(marich, 1500))
    assert set(images) == POOL and set(images.values()) == {2, 3}


def test_augmented_asks_each_image_and_three_changed_versions() -> None:
    images = asked(augmented, 10, 40)
    own = [place for place, image in enumerate(images) if image in POOL]
    assert own == list(range(0, 40, 4)) and len(set(images)) == 40


def test_mixup_asks_both_ends_and_what_lies_between() -> None:
    images = asked(mixup, 10, 40)
    single = [8, 9, 38, 39]  # what is left over of 10 and of 30
    ends = [start + i for start in (0, 4, *range(10, 38, 4)) for i in (0, 3)]
    own = [place for place, image in enumerate(images) if image in POOL]
    assert own == sorted([*ends, *single]) and len({images[p] for p in own}) == len(own)


def test_boundary_halves_segments_down_to_a_sixteenth() -> None:
    images = asked(boundary, 80)
    probes = [torch.frombuffer(bytearray(i), dtype=torch.uint8).float() for i in images[40:]]
    assert len(images) == 80 and all(image in POOL for image in images[:40])
    for one in range(10):  # the probes of a segment are ten places apart
        points = probes[one::10]
        steps = [float((here - there).norm()) for here, there in pairwise(points)]
        for longer, shorter in pairwise(steps):
            assert shorter == pytest.approx(longer / 2, rel=0.1)


def test_far_apart_equals_a_naive_search() -> None:
    rng = torch.Generator().manual_seed(0)
    rows, known = torch.randn(30, 3, generator=rng), torch.randn(4, 3, generator=rng)
    chosen, near = list[int](), list(known)
    for _ in range(8):
        distance = [min(float((r - k).norm()) for k in near) for r in rows]
        best = max(set(range(30)) - set(chosen), key=lambda i: distance[i])
        chosen.append(best)
        near.append(rows[best])
    assert far_apart(rows, known, 8).tolist() == chosen


def test_entropy_and_margin_of_candidates() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [0.8, 0.1, 0.1]])
    none = torch.zeros(0, 2)
    found = Candidates(pool()[:2], p, none, none, none, torch.Generator())
    assert found.entropy().tolist() == pytest.approx([0.693147, 0.639032], abs=1e-5)
    assert found.margin().tolist() == pytest.approx([0.0, 0.7], abs=1e-6)


def test_targets_between_points_are_linear() -> None:
    known = torch.eye(3)[[0, 0, 2, 1]][None]
    share = torch.tensor([[0.0, 1 / 6, 0.5, 1.0]])
    expected = [[1, 0, 0], [1, 0, 0], [0.5, 0, 0.5], [0, 1, 0]]
    torch.testing.assert_close(interpolated(known, share), torch.tensor(expected).float())
    ends = torch.tensor([0.0, 100.0]).view(1, 2, 1, 1, 1)
    assert mixed(ends, share).flatten().tolist() == [0, 17, 50, 100]


def test_half_of_the_images_lose_a_rectangle() -> None:
    torch.manual_seed(0)
    images = torch.full((2000, 1, 12, 12), 2.0)
    gone = (erased(images) != 2)[:, 0]
    share = gone.flatten(1).double().mean(1)
    some = share > 0
    assert 0.45 < float(some.double().mean()) < 0.55
    assert float(share[some].min()) > 0.01 and float(share.max()) < 0.5
    box = gone.any(2).sum(1) * gone.any(1).sum(1)
    assert torch.equal(box, gone.flatten(1).sum(1))


def test_superpixels_follow_colours_and_lie_together() -> None:
    image = torch.zeros(1, 1, 12, 12, dtype=torch.uint8)
    image[:, :, :, 7:] = 255
    parts = superpixels(image, 2)[0]
    assert not set(parts[:, :7].flatten().tolist()) & set(parts[:, 7:].flatten().tolist())
    flat = superpixels(torch.full((1, 3, 12, 12), 9, dtype=torch.uint8), 3)[0]
    grid = torch.arange(9).view(3, 3)
    assert torch.equal(flat, grid.repeat_interleave(4, 0).repeat_interleave(4, 1))


def test_spsg_says_when_rounding_makes_differences_vanish() -> None:
    texts = list[str]()
    held = holdings(60, say=texts.append, least_steps=5)
    clones(spsg, held, defences=[Rounding(1)])
    assert any("of the differences are 0, as answers are rounded" in text for text in texts)
    texts.clear()
    clones(spsg, held)
    assert texts == []


def test_batch_statistics_are_those_of_the_given_images() -> None:
    net = build_model("cnn-small", FACTS.shape, FACTS.classes).eval()
    images = pool()[:200]
    set_statistics(net, images)
    first = net.body[0](images.float() / 255 * 2 - 1)
    norm = net.body[1]
    assert not norm.training and norm.momentum == 0.1
    torch.testing.assert_close(norm.running_mean, first.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
