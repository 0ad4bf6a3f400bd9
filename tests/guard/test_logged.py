"""Honest accounts of logs: each account and month is one stream, in the order of time."""

import json
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpsd.errors import UserError
from dpsd.guard.offline.logged import logged_accounts

START, DAY = 1_700_000_000.0, 86_400.0


def rows(accounts, days, seed=0, each=20):
    """Shuffled questions: account, time, features [3], answers [2]."""
    rng = np.random.default_rng(seed)
    found = [
        {"account": f"a{who}", "at": START + float(at), "features": rng.normal(size=3).tolist(),
         "answers": [0.25, 0.75]}
        for who in range(accounts)
        for at in [0, days * DAY, *rng.uniform(0, days * DAY, each)]
    ]  # fmt: skip
    return [found[i] for i in rng.permutation(len(found))]


def jsonl(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def parquet(path, lines):
    pq.write_table(pa.Table.from_pylist(lines), path)
    return path


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_streams_are_accounts_in_order_of_time(write, tmp_path):
    lines = rows(7, 10)
    got = logged_accounts([write(tmp_path / f"a.{write.__name__}", lines)], 3, 2)
    assert len(got.streams) == 7 and got.days == pytest.approx(10) and got.left_out == 0
    wanted = defaultdict(list)
    for line in lines:
        wanted[line["account"]].append((line["at"], line["features"]))
    for stream, mine in zip(got.streams, (sorted(wanted[a]) for a in sorted(wanted)), strict=True):
        assert stream.at.tolist() == [at for at, _ in mine]
        assert np.allclose(got.features[stream.rows], [f for _, f in mine], atol=1e-6)


def test_long_logs_are_cut_into_months_and_the_rest_is_left(tmp_path):
    lines = rows(5, 75, each=200)
    got = logged_accounts([parquet(tmp_path / "a.parquet", lines)], 3, 2)
    assert len(got.streams) == 10 and got.days == 30
    for stream in got.streams:
        assert stream.at[-1] - stream.at[0] < 30 * DAY
    month = [int((s.at[0] - START) // (30 * DAY)) for s in got.streams]
    assert month == [0, 1] * 5
    assert sum(len(s.rows) for s in got.streams) == sum(
        line["at"] < START + 60 * DAY for line in lines
    )


def test_what_would_not_fit_is_drawn_by_account(tmp_path):
    path = parquet(tmp_path / "a.parquet", rows(400, 10))
    whole = logged_accounts([path], 3, 2)
    some = logged_accounts([path], 3, 2, most=len(whole.features) * 5 // 4)
    assert some.left_out == 0.75 and 50 < len(some.streams) < 160
    assert all(len(s.rows) == 22 for s in some.streams)  # whole accounts
    with pytest.raises(UserError, match="too few accounts"):
        logged_accounts([parquet(tmp_path / "b.parquet", rows(1, 1))], 3, 2, most=1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: line.pop("answers"), "no column 'answers'"),
        (lambda line: line.update(features=[1.0]), "features of 1 numbers; accepted: 3"),
        (lambda line: line.update(answers=[0.2, 0.3, 0.5]), "answers of 3 numbers; accepted: 2"),
        (lambda line: line.update(features=[1.0, 2.0, float("nan")]), "no numbers"),
        (lambda line: line.update(account=None), "no questions"),
    ],
)
def test_logs_that_do_not_fit_are_one_line(change, says, tmp_path):
    lines = rows(3, 1)
    for line in lines:
        change(line)
    with pytest.raises(UserError, match=says):
        logged_accounts([parquet(tmp_path / "a.parquet", lines)], 3, 2)
