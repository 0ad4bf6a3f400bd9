"""What travels: the allowed fields, sizes, and that both ends read the same."""

import pytest
import torch
from federated.doors import config, images
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from dpsd.errors import UserError
from dpsd.federated import messages
from dpsd.federated.messages import Request


def test_images_travel_as_a_seed_where_that_is_smaller():
    request = Request("run", 0, 0, images(100), seed=7)
    assert "seed" in messages.facts_of(messages.encode_request(request))
    assert messages.size_of(messages.encode_request(request)) < 300
    raw = messages.encode_request(request, raw=True)
    assert messages.arrays_of(raw)["images"].nbytes == 100 * 64
    heavy = Request("run", 0, 0, images(100), seed=7, weights={"w": torch.zeros(100 * 64 // 4)})
    assert "seed" not in messages.facts_of(messages.encode_request(heavy))
    light = Request("run", 0, 0, images(100), seed=7, weights={"w": torch.zeros(100 * 64 // 4 - 1)})
    content = messages.encode_request(light)
    assert "seed" in messages.facts_of(content) and set(content[messages.WEIGHTS]) == {"w"}


def test_the_prior_travels_in_half_precision_and_both_ends_use_what_travelled():
    prior = torch.rand(50, 4).softmax(1)
    request = Request("run", 0, 0, images(50), prior=messages.as_travelled(prior))
    content = messages.encode_request(request)
    assert messages.arrays_of(content)["prior"].nbytes == 50 * 4 * 2
    assert torch.equal(messages.decode_prior(content), request.prior)


@pytest.mark.parametrize("classes", [2, 8, 10, 17])
def test_groups_are_packed_as_bits(classes):
    rng = torch.Generator().manual_seed(0)
    support = torch.rand(30, classes, generator=rng).argsort(1)
    size = torch.randint(1, classes, (30,), generator=rng)
    bits = messages.pack_group(support, size, classes)
    assert bits.shape == (30, -(-classes // 8))
    found, again = messages.unpack_group(bits, classes)
    assert torch.equal(again, size)
    for a, b, n in zip(support, found, size, strict=True):
        assert set(a[:n].tolist()) == set(b[:n].tolist())


def test_integers_travel_in_the_narrowest_type():
    for values, kind in (([0, 255], "uint8"), ([-1, 9], "int8"), ([-300, 9], "int16"),
                         ([70_000, 0], "int32")):  # fmt: skip
        assert str(messages.smallest(torch.tensor(values).numpy()).dtype) == kind


def test_any_other_field_is_refused():
    array = ArrayRecord({"loss": Array(torch.zeros(1).numpy())})
    for content, field in (
        (RecordDict({"facts": ConfigRecord({"clients": [0], "accuracy": 0.9})}), "facts.accuracy"),
        (RecordDict({"arrays": array}), "arrays.loss"),
        (RecordDict({"weights": array}), "weights"),
        (RecordDict({"metrics": MetricRecord({"rows": 60})}), "metrics.rows"),
    ):
        with pytest.raises(UserError, match=f"{field}.* not allowed"):
            messages.check_fields(content, messages.ANSWER, "up")


def test_settings_must_agree():
    from dpsd.federated.messages import settings

    assert settings(config()) == settings(config())
    assert settings(config()) != settings(config(epsilon=9.0))
    assert settings(config()) != settings(config(federated={"aggregate": "learned"}))
    assert settings(config()) == settings(config(federated={"deadline_s": 1}))


def test_ties_of_a_uniform_prior_survive_the_way():
    """Else the first classes stood first in every top k."""
    from dpsd.config import parse_config
    from dpsd.privacy.plan import make_plan
    from dpsd.transcription.loop import asking_prior

    class Even:
        def predict(self, images):
            return torch.full((len(images), 10), 0.1)

    plan = make_plan(parse_config(
        {"data": {"name": "none", "shape": [1, 8, 8], "classes": 10},
         "privacy": {"route": "federated", "epsilon": 1.0, "answers": 100, "top_k": 2}}
    ))  # fmt: skip
    believed = asking_prior(plan, Even(), 0)(torch.empty(4000, 1, 8, 8))
    places = messages.as_travelled(believed).topk(2, dim=1).indices
    shares = places.flatten().bincount(minlength=10) / 8000
    assert shares.min() > 0.08 and shares.max() < 0.12
