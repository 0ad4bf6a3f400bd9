"""Figures on labelled rows, against loops."""

import math

import numpy as np
import torch

from dpsd.data.load import Split
from dpsd.evaluation.measures import accuracy, on_rows


def test_reliability_and_confusions_against_a_loop():
    generator = torch.Generator().manual_seed(3)
    answers, labels = torch.randn(200, 4, generator=generator), torch.arange(200) % 4
    predictions = torch.randn(200, 4, generator=generator).softmax(1)
    rows = Split(torch.zeros(200, 1, 2, 2, dtype=torch.uint8), labels)
    found = on_rows(rows, "abcd", lambda x: answers[: len(x)], lambda x: predictions[: len(x)])
    assert sum(b["rows"] for b in found["reliability"]["teacher"]) == 200
    bins = {}
    for p, label in zip(predictions.double(), labels.tolist(), strict=True):
        confidence, named = float(p.max()), int(p.argmax())
        bins.setdefault(math.ceil(confidence * 15), []).append((confidence, named == label))
    expected = [(sum(c for c, _ in b) / len(b), sum(h for _, h in b) / len(b), len(b))
                for _, b in sorted(bins.items())]  # fmt: skip
    mine = [(b["confidence"], b["accuracy"], b["rows"]) for b in found["reliability"]["student"]]
    assert np.allclose(mine, expected)
    counts = np.zeros((4, 4), dtype=int)
    for label, named in zip(labels.tolist(), predictions.argmax(1).tolist(), strict=True):
        counts[label, named] += 1
    assert found["confusion"] == counts.tolist()
    many = Split(rows.images[:1], torch.tensor([20]))
    assert on_rows(many, [str(i) for i in range(21)], lambda x: torch.rand(1, 21),
                   lambda x: torch.rand(1, 21))["confusion"] == []  # fmt: skip


def test_large_images_come_in_small_batches():
    """A batch holds 2^23 pixel values at the most: 55 images of 3 x 224 x 224, never above 512."""
    for side, most in ((224, 55), (8, 512)):
        rows, seen = Split(torch.zeros(600, 3, 1, 1).byte(), torch.zeros(600).long()), []
        rows = Split(rows.images.expand(-1, -1, side, side), rows.labels)

        def ask(images, seen=seen):
            seen.append(len(images))
            return torch.zeros(len(images), 2)

        on_rows(rows, "ab", ask, ask)
        accuracy(ask, rows)
        assert max(seen) == most and sum(seen) == 3 * 600
