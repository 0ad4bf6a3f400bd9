"""Samples: balance and choice against naive loops, on a stream of known classes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from products import contents, copy_of, tiny_run

from dpsd.errors import UserError
from dpsd.generator.recombine import Pool
from dpsd.runs import samples
from dpsd.runs.samples import draw_samples

SHARES = (0.8, 0.15, 0.05)


class Stream:
    """Images whose first pixel says the class and whose second says how sure the student is."""

    def __init__(self):
        self.remembered = []

    def sample(self, n, student, *, round):
        rng = torch.Generator().manual_seed(-round)
        images = torch.randint(0, 256, (n, 1, 4, 4), generator=rng, dtype=torch.uint8)
        classes = torch.multinomial(torch.tensor(SHARES), n, replacement=True, generator=rng)
        images[:, 0, 0, 0] = classes.to(torch.uint8)
        return images

    def remember(self, images, predict):
        self.remembered.append((images, predict(images)))


class Reader:
    def __init__(self, model, device):
        pass

    def predict(self, images):
        classes, sure = images[:, 0, 0, 0].long(), 0.5 + images[:, 0, 0, 1] / 512
        p = ((1 - sure) / 2)[:, None].repeat(1, 3)
        return p.scatter(1, classes[:, None], sure[:, None])


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws from the stream in chunks of 50."""
    facts = SimpleNamespace(shape=(1, 4, 4), classes=3, class_names=("common", "rare", "rarest"))
    for name, stub in (
        ("load_config", lambda path: SimpleNamespace(
            facts=facts, generator=SimpleNamespace(select=1))), ("_CHUNK", 50),
        ("release_folder", lambda run: tmp_path), ("load_student", lambda run: None),
        ("Labeller", Reader), ("released_synthesizer", lambda run, device, select: Stream()),
    ):  # fmt: skip
        monkeypatch.setattr(samples, name, stub)
    return lambda n, **how: draw_samples(tmp_path, n, **how)


def stream(n, chunk=50):
    """The first n candidates one by one, as (class, sureness, bytes)."""
    parts = [Stream().sample(chunk, None, round=-1 - i) for i in range(-(-n // 50))]
    images = torch.cat(parts)[:n]
    return [(int(x[0, 0, 0]), int(x[0, 0, 1]), x.numpy().tobytes()) for x in images]


def naive(n, balanced, best, candidates):
    """Keep, of each `best` of a class, the surest; then take turns over the classes, or do not."""
    waiting, kept, seen = {}, [], {}
    for i, (c, sure, image) in enumerate(stream(candidates)):
        group = waiting.setdefault(c, [])
        group.append((sure, image))
        if len(group) == best:
            rank = seen.get(c, 0)
            seen[c] = rank + 1
            kept.append((rank if balanced else 0, i, max(group, key=lambda g: g[0])[1]))
            waiting[c] = []
    return [image for _, i, image in sorted(sorted(kept)[:n], key=lambda k: k[1])]


def as_bytes(found):
    return [x.numpy().tobytes() for x in found.images]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("best", [1, 4])
def test_the_choice_is_that_of_a_plain_loop(drawn, balanced, best):
    if not balanced and best == 1:
        pytest.skip("nothing is chosen")
    found = drawn(100, balanced=balanced, best=best)
    assert as_bytes(found) == naive(100, balanced, best, found.candidates)
    assert torch.equal(found.probabilities, Reader(None, None).predict(found.images))
    assert len(set(as_bytes(found))) == 100


def test_without_a_choice_every_candidate_is_a_sample(drawn):
    found = drawn(120)
    assert found.candidates == 120 and found.short == {} and found.shortage() == ""
    assert as_bytes(found)[:100] == [image for *_, image in stream(100)]


def test_balance_gives_each_class_its_share_with_as_few_candidates_as_it_takes(drawn):
    found = drawn(61, balanced=True)
    assert sorted(found.counts) == [20, 20, 21] and found.short == {}
    rarest = [sum(c == 2 for c, *_ in stream(found.candidates - less)) for less in (50, 0)]
    assert rarest[0] < 20 <= rarest[1]


def test_rare_classes_are_varied_where_balance_is_asked_for(drawn, monkeypatch):
    made = Stream()
    monkeypatch.setattr(samples, "released_synthesizer", lambda run, device, select: made)
    drawn(61)
    assert made.remembered == []  # samples that need no balance are all drawn anew
    found = drawn(61, balanced=True)
    images, probabilities = (torch.cat(part) for part in zip(*made.remembered, strict=True))
    assert len(images) == found.candidates
    assert torch.equal(probabilities, Reader(None, None).predict(images))


def test_a_class_that_stays_short_is_named_and_the_others_fill_up(drawn, monkeypatch):
    monkeypatch.setattr(samples, "CANDIDATES", 2)
    found = drawn(300, balanced=True)
    rare, rarest = (sum(c == k for c, *_ in stream(600)) for k in (1, 2))
    assert rarest < rare < 100 and found.candidates == 600
    assert found.counts == [300 - rare - rarest, rare, rarest]
    assert found.short == {"rare": 100 - rare, "rarest": 100 - rarest}
    assert found.shortage() == (
        f"short of 100 images after 600 candidates: rare by {100 - rare}, rarest by "
        f"{100 - rarest}; other classes have more instead"
    )


def test_the_surest_are_surer_and_keep_the_shares_of_the_classes(drawn):
    plain, best = drawn(2000), drawn(2000, best=5)
    sure = [s.probabilities.max(1).values for s in (plain, best)]
    assert sure[0].mean() == pytest.approx(0.75, abs=0.01)  # uniform on 0.5 to 1
    assert sure[1].mean() == pytest.approx(0.5 + 0.5 * 5 / 6, abs=0.01)  # the largest of five
    assert np.array(best.counts) / 2000 == pytest.approx(SHARES, abs=0.03)


@pytest.mark.parametrize(
    ("n", "how", "says"),
    [
        (0, {}, "n: 0; accepted: from 1"),
        (5, {"best": 0}, "best: 0; accepted: from 1"),
        (5, {"select": 0}, "select: 0; accepted: from 1"),
        (2, {"balanced": True}, "n: 2; accepted with balanced: from 3, one of each class"),
    ],
)
def test_refusals(drawn, n, how, says):
    with pytest.raises(UserError, match=says):
        drawn(n, **how)


def test_chunks_of_large_images_are_bounded():
    """The sizes of released samples keep their chunks of 10,000; larger images come in fewer."""
    for shape, select, images in (
        ((1, 28, 28), 8, 10_000), ((3, 32, 32), 3, 10_000), ((3, 96, 96), 3, 10_000),
        ((3, 224, 224), 1, 7133), ((3, 224, 224), 3, 2377), ((3, 60_000, 60_000), 1, 1),
    ):  # fmt: skip
        assert samples._chunk(SimpleNamespace(shape=shape), select) == images


def test_samples_that_do_not_fit_in_memory_are_refused(drawn, monkeypatch):
    need = 2 * 1000 * (16 + 4 * 3 + 8) + 2 * 50 * 16  # kept, put in order; one chunk is drawn
    monkeypatch.setattr(samples, "available_bytes", lambda: need)
    assert len(drawn(1000).images) == 1000
    monkeypatch.setattr(samples, "available_bytes", lambda: need - 1)
    with pytest.raises(UserError, match=r"n: 1000 images need .* are free; accepted: up to 999$"):
        drawn(1000)


def test_balanced_samples_of_a_run_hold_variants_of_earlier_candidates(
    tmp_path_factory, monkeypatch
):
    run, pools, draw = tiny_run(tmp_path_factory), [], Pool.draw
    monkeypatch.setattr(samples, "_CHUNK", 100)
    monkeypatch.setattr(samples, "CANDIDATES", 2)
    monkeypatch.setattr(Pool, "draw", lambda *args: pools.append(draw(*args)) or pools[-1])
    assert run.config.generator.recombine == 0.5
    draw_samples(run, 300, balanced=True, select=1)
    draw_samples(run, 300, select=2)
    assert not any(variants is not None for variants in pools)
    draw_samples(run, 300, balanced=True, select=2)
    assert [len(variants) for variants in pools if variants is not None][:2] == [100, 100]


def test_a_bare_release_gives_the_same_choice_each_time(tmp_path_factory, tmp_path):
    run = copy_of(tiny_run(tmp_path_factory), tmp_path / "run")
    alone = (run.path / "release").rename(tmp_path / "published")
    before = contents(tmp_path)
    first, second = (draw_samples(alone, 50, balanced=True, best=2) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.probabilities, second.probabilities)
    assert first.counts == second.counts and sum(first.counts) == 50
    assert contents(tmp_path) == before
    unsure = draw_samples(alone, 300, select=5).probabilities.max(1).values
    assert unsure.mean() < draw_samples(alone, 300, select=1).probabilities.max(1).values.mean()
