"""The token mark: found where it is, with a p-value that holds where it is not."""

import math

import numpy as np
import pytest
import torch

from dpsd.errors import UserError
from dpsd.hardening.token_mark import TokenMark, count_tokens

KEY, V = bytes(range(32)), 500


def written(mark, length=150, seed=0, temperature=1.0):
    """Text of a model that draws from fixed random logits by the last token."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(V, V, generator=rng) * temperature
    ids = torch.zeros(1, 1, dtype=torch.long)
    for _ in range(length):
        scores = logits[ids[:, -1]]
        if mark is not None:
            scores = mark(ids, scores)
        ids = torch.cat([ids, torch.multinomial(scores.softmax(1), 1, generator=rng)], 1)
    return ids[0].tolist()


@pytest.mark.parametrize("context", [1, 3])
def test_marked_text_is_found_with_its_key_alone(context):
    mark = TokenMark(KEY, V, context=context)
    text = written(mark)
    found = count_tokens(text, mark)
    assert found.z > 6 and found.p_value < 1e-9
    others = [count_tokens(text, TokenMark(bytes([k]) * 16, V, context=context)).p_value
              for k in range(20)]  # fmt: skip
    assert min(others) > 1e-4  # of 20
    assert count_tokens(written(None), mark).p_value > 1e-3


def test_p_values_hold_for_text_without_the_key():
    """Over keys, a p-value is at most u with probability at most u; repetitive text included."""
    text = written(None, 60, seed=3)
    text = [t % 100 for t in text + text[:20] * 10 + [7] * 50]
    p = np.array([count_tokens(text, TokenMark(k.to_bytes(16), 100)).p_value for k in range(200)])
    for u in (0.05, 0.2, 0.5):
        assert (p <= u).mean() <= u + 4 * math.sqrt(u * (1 - u) / 200)
    assert (p <= 0.5).mean() > 0.3  # and is no constant


def test_repeated_runs_are_counted_once():
    mark = TokenMark(KEY, V)
    once, often = count_tokens([1, 2, 3], mark), count_tokens([1, 2, 3] + [1, 2, 3] * 50, mark)
    assert once.counted == 2 and often.counted == 3  # 1-2, 2-3, and 3-1
    assert count_tokens([5], mark).p_value == 1 and count_tokens([], mark).counted == 0


def test_the_statistics_by_hand():
    mark = TokenMark(KEY, V, gamma=0.5)
    green = np.flatnonzero(mark.green((0,)))[0]
    red = np.flatnonzero(~mark.green((0,)))[0]
    assert count_tokens([0, int(green)], mark).p_value == pytest.approx(0.5)
    found = count_tokens([0, int(red)], mark)
    assert (found.counted, found.green, found.p_value) == (1, 0, 1.0)
    assert found.z == pytest.approx(-1)


def test_green_tokens_get_delta_and_others_stay():
    mark = TokenMark(KEY, V, delta=1.5, context=2)
    ids, scores = torch.tensor([[4, 9, 11], [4, 9, 12]]), torch.randn(2, V + 3)
    more = mark(ids, scores) - scores
    assert set(more.unique().tolist()) <= {0.0, *more[more != 0].unique().tolist()}
    for row, before in zip(more, ((9, 11), (9, 12)), strict=True):
        assert torch.allclose(row[:V], torch.from_numpy(mark.green(before)).float() * 1.5,
                              atol=1e-6)  # fmt: skip
        assert not row[V:].any()
    short = torch.tensor([[4]])
    assert torch.equal(mark(short, scores[:1]), scores[:1])
    half = mark(ids, scores.half())
    assert half.dtype == torch.float16


def test_gamma_is_the_share_and_lists_depend_on_everything():
    lists = [TokenMark(KEY, 20_000, gamma=g).green((3,)) for g in (0.25, 0.5)]
    for found, g in zip(lists, (0.25, 0.5), strict=True):
        assert abs(found.mean() - g) < 5 * math.sqrt(g * (1 - g) / 20_000)
    mark = TokenMark(KEY, 20_000)
    same = (mark.green((3,)) == mark.green((4,))).mean()
    assert abs(same - (0.25**2 + 0.75**2)) < 0.03  # independent
    small = TokenMark(KEY, 2)
    for k in range(1_100):
        small.green((k,))
    assert len(small._lists) == 1024


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"key": b"short"}, "key: 5 bytes"),
        ({"vocabulary": 1}, "vocabulary: 1"),
        ({"gamma": 1.0}, "gamma: 1.0"),
        ({"delta": math.nan}, "delta: nan"),
        ({"context": 0}, "context: 0"),
    ],
)
def test_bad_values_are_one_line(more, says):
    with pytest.raises(UserError, match=says):
        TokenMark(**({"key": KEY, "vocabulary": V} | more))
    with pytest.raises(UserError, match=r"token: 500; accepted: 0 to 499"):
        count_tokens([1, 500], TokenMark(KEY, V))
