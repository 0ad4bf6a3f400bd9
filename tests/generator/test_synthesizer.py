import torch

from dpsd.config import parse_config
from dpsd.generator import synthesizer as module
from dpsd.generator.synthesizer import Synthesizer

CONFIG = parse_config({"privacy": {"epsilon": 1}, "generator": {"select": 2, "recombine": 0}})


class Undecided:
    def predict(self, images):
        return torch.full((len(images), 10), 0.1)


def drawn(**named):
    made = Synthesizer(CONFIG, CONFIG.facts, torch.device("cpu"), **named)
    return made.sample(700, Undecided(), round=1)


def test_ranks_share_the_work_of_the_loops_synthesizer_alone(monkeypatch):
    """A synthesizer of one rank would wait for the others for ever if it shared its work."""
    calls = []

    def shared(pieces, work):
        calls.append(pieces)
        return torch.cat([work(i) for i in range(pieces)])

    monkeypatch.setattr(module, "shared", shared)
    alone = drawn()
    assert calls == []
    assert torch.equal(drawn(together=True), alone)
    assert calls == [3, 3]  # 1,400 candidates are drawn, and then ranked, in chunks of 512


def test_a_chunk_does_not_depend_on_how_many_images_follow():
    made = Synthesizer(CONFIG, CONFIG.facts, torch.device("cpu"))
    few, many = (made._anew(n, torch.Generator().manual_seed(3)) for n in (513, 600))
    assert torch.equal(few[:512], many[:512])
    assert not torch.equal(many[:88], many[512:])
