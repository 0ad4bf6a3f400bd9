from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dpsd.config import parse_config
from dpsd.data import rows
from dpsd.data.folders import Files
from dpsd.errors import UserError
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

    def shared(rows, pieces, work):
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


@pytest.mark.parametrize(("privacy", "moves"), [({}, True), ({"route": "federated"}, False)])
@pytest.mark.parametrize("source", ["shares", "folder"])
def test_images_are_drawn_on_the_runs_device(monkeypatch, tmp_path, privacy, moves, source):
    """A processor plays the GPU: what would be drawn on it gets a generator of that device."""
    Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "noise.png")
    generator = {"shares": {"strokes": 1, "leaves": 1, "photographs": 1}}
    if source == "folder":
        generator = {"kind": "images", "source": str(tmp_path), "augment": ["scale"]}
    config = parse_config({"privacy": {"epsilon": 1} | privacy, "generator": generator})
    real, asked = torch.Generator, []

    def of_device(device="cpu"):
        asked.append(torch.device(device).type)
        return real()

    made = Synthesizer(config, config.facts, torch.device("cuda"))
    monkeypatch.setattr(torch, "Generator", of_device)
    images = made.sample(60, None, round=1)
    assert images.device.type == "cpu"
    sources = 1 if source == "folder" else 3
    assert asked.count("cuda") == (sources if moves else 0)
    assert torch.equal(images, made.sample(60, None, round=1))


def folder_of(path, images):
    path.mkdir()
    pixels = torch.randint(0, 256, (images, 4, 4, 3), dtype=torch.uint8)
    for i, image in enumerate(pixels.numpy()):
        Image.fromarray(image).save(path / f"{i:04d}.png")
    return path


class Asked:
    """Lets each image be asked once."""

    def __init__(self):
        self.seen = set()

    def fresh(self, images):
        found = set(self.seen)
        return torch.tensor([not (h in found or found.add(h)) for h in map(as_bytes, images)])

    def ask(self, images):
        assert bool(self.fresh(images).all())
        self.seen |= set(map(as_bytes, images))


def as_bytes(image):
    return image.numpy().tobytes()


def of_folder(path, **generator):
    tree = {"privacy": {"epsilon": 1}, "data": {"name": "none", "shape": [3, 4, 4], "classes": 10}}
    generator = {"kind": "images", "source": str(path)} | generator
    config = parse_config(tree | {"generator": generator})
    return Synthesizer(config, config.facts, torch.device("cpu"))


@pytest.mark.parametrize("select", [1, 3])
def test_all_images_of_a_public_folder_can_be_asked(tmp_path, select):
    path, asked = folder_of(tmp_path / "public", 500), Asked()
    for round, n in enumerate((100, 100, 100, 130, 70)):
        made = of_folder(path, select=select, recombine=0)  # a resumed run goes on like this
        asked.ask(made.sample(n, Undecided(), asked, round=round))
    assert len(asked.seen) == 500
    with pytest.raises(UserError, match=r"only 0 of 1 .* or set generator\.augment"):
        made.sample(1, Undecided(), asked, round=5)


def test_a_folder_is_drawn_again_where_nothing_is_asked(tmp_path):
    made = of_folder(folder_of(tmp_path / "public", 70))
    images = made.sample(140, Undecided(), round=2)
    found = list(map(as_bytes, images))
    assert len(set(found)) == 70 and sorted(found) == sorted(2 * list(set(found)))


def test_a_large_folder_stays_on_disk(tmp_path, monkeypatch):
    """The same images as in memory; only those that are drawn are read."""
    path = folder_of(tmp_path / "public", 700)
    expected = of_folder(path).sample(600, Undecided(), round=1)
    monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 700 * 48 - 1)
    made, read, one = of_folder(path), [], Files.read
    monkeypatch.setattr(Files, "read", lambda self, n: read.append(n) or one(self, n))
    assert not read
    assert torch.equal(made.sample(600, Undecided(), round=1), expected)
    assert len(read) == len(set(read)) == 600


def test_ranks_share_the_reading_of_a_large_folder(tmp_path, monkeypatch):
    path, calls = folder_of(tmp_path / "public", 700), []
    expected = of_folder(path).sample(600, Undecided(), round=1)

    def shared(rows, pieces, work):
        calls.append((rows, pieces))
        return torch.cat([work(i) for i in range(pieces)])

    monkeypatch.setattr(module, "shared", shared)
    monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 700 * 48 - 1)
    made = of_folder(path)
    made._together = True
    assert torch.equal(made.sample(600, Undecided(), round=1), expected)
    assert calls == [(600, 2)]


class Allows:
    """Lets the images be asked that a mask names; keeps what it was shown."""

    def __init__(self, mask):
        self.mask, self.shown = mask, []

    def fresh(self, images):
        self.shown.append(images)
        return self.mask(len(images))


@pytest.mark.parametrize("select", [1, 4])
@pytest.mark.parametrize("mask", [lambda n: torch.ones(n).bool(), lambda n: torch.arange(n) != 3])
def test_candidates_are_never_copied_as_a_whole(select, mask, monkeypatch):
    """A round of 600 images holds its candidates once, and the images chosen twice at the most."""
    generator = CONFIG.generator.model_copy(update={"select": select})
    config = CONFIG.model_copy(update={"generator": generator})
    made, oracle, sizes = Synthesizer(config, config.facts, torch.device("cpu")), Allows(mask), []
    for name in ("cat", "empty"):
        real = getattr(torch, name)

        def counted(*args, real=real, **named):
            out = real(*args, **named)
            sizes.append(out.numel())
            return out

        monkeypatch.setattr(torch, name, counted)
    candidates, draw, held = [], made._draw, []

    def drawn(*args):
        out = draw(*args)
        candidates.append(out.data_ptr())
        sizes.clear()  # what drawing takes is another matter
        return out

    monkeypatch.setattr(made, "_draw", drawn)
    predict = Undecided().predict
    student = SimpleNamespace(predict=lambda x: held.append(len(x)) or predict(x))
    images = made.sample(600, student, oracle, round=1)
    assert len(images) == 600
    assert oracle.shown[0].data_ptr() == candidates[0]
    assert max(sizes, default=0) <= 700 * 28 * 28 and max(held, default=0) <= 512
