"""Figures on rows that stay on disk are those of the same rows in memory."""

from types import SimpleNamespace

import torch
from picture_data import SIZE, both_ways, picture_folder

from dpsd.evaluation import release_accuracy
from dpsd.evaluation.measures import on_rows
from dpsd.models.networks import build_model


def test_measures_and_hits(tmp_path, monkeypatch):
    memory, disk = both_ways(picture_folder(tmp_path, tests=10), monkeypatch)
    torch.manual_seed(0)
    model = build_model("cnn-tiny", (1, SIZE, SIZE), 2, norm="group").eval()

    def ask(images):
        mean = images.float().mean((1, 2, 3))
        return torch.stack([120 - mean, mean - 120], 1)

    @torch.no_grad()
    def predict(images):
        return model(images.float() / 255).softmax(1)

    figures = [on_rows(data.test, ("dark", "bright"), ask, predict) for data in (memory, disk)]
    assert figures[0] == figures[1] and figures[0]["teacher"]["accuracy"] == 1.0
    monkeypatch.setattr(release_accuracy, "load_student", lambda run: model)
    run = SimpleNamespace(config=SimpleNamespace(device="cpu"))
    hits = [release_accuracy._hits(run, data.test) for data in (memory, disk)]
    assert hits[0] == hits[1] == round(20 * figures[0]["student"]["accuracy"])
