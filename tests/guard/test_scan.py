"""Scans: figures equal plain loops, strange accounts come first, bad logs are one line."""

import json
from collections import defaultdict

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpsd.errors import UserError
from dpsd.guard.detection.calibrate import Stream, all_windows, calibrate
from dpsd.guard.detection.evidence import Evidence
from dpsd.guard.indicators.sharing import hashed
from dpsd.guard.indicators.stix import to_stix
from dpsd.guard.offline import scan as scanning
from dpsd.guard.offline.scan import rank_p, scan
from dpsd.guard.offline.scan_text import as_tree, report_text, told

START, KEY = 1_700_000_000.0, bytes(range(32))


def log(rng, people=60):
    """Requests of people at day, and of a robot that asks every ten seconds round the clock."""
    rows = []
    for who in range(people):
        for at in rng.uniform(0, 5 * 86_400, rng.integers(10, 60)):
            hour = at // 3600 % 24
            if 8 <= hour < 18:
                rows.append((f"p{who}", START + at, 1, f"10.0.{who}.0/24"))
    rows += [("robot", START + 10.0 * i, 2, "10.9.9.0/24") for i in range(9_000)]
    return [rows[i] for i in rng.permutation(len(rows))]


def jsonl(path, rows, **more):
    names = ("account", "at", "images", "network")
    path.write_text("".join(json.dumps(dict(zip(names, r, strict=True)) | more) + "\n"
                            for r in rows))  # fmt: skip
    return path


def test_signals_equal_plain_loops_also_in_several_passes(tmp_path, monkeypatch):
    rows = log(np.random.default_rng(0))
    path = jsonl(tmp_path / "a.jsonl", rows)
    whole = scan([path], most=100)
    monkeypatch.setattr(scanning, "_PASS", 3_000)
    for report in (whole, scan([path], most=100)):
        assert report.rows == len(rows) and report.images == sum(r[2] for r in rows)
        by = defaultdict(list)
        for account, at, images, _ in rows:
            by[account].append((at, images))
        assert report.accounts == len(by) == len(report.top) and report.alarms is None
        for f in report.top:
            asked = sorted(by[f.account])
            at, images = np.array(asked).T
            hours = np.bincount((at // 3600 - START // 3600).astype(int), images)
            assert (f.requests, f.images, f.first, f.last) == (len(at), images.sum(), *at[[0, -1]])
            assert f.signals["rate"] == hours.max()
            day = np.bincount((at // 3600 % 24).astype(int), images)
            share = day[day > 0] / day.sum()
            assert f.signals["clock"] == pytest.approx(np.exp(-(share * np.log(share)).sum()) / 24)
            gaps = np.log(np.diff(at) + 1e-3)
            if len(gaps) < 8:
                assert np.isnan(f.signals["regularity"])
            else:
                assert f.signals["regularity"] == pytest.approx(1 / (1 + gaps.std()), rel=1e-4)


def test_a_robot_comes_first_with_its_reasons(tmp_path):
    report = scan([jsonl(tmp_path / "a.jsonl", log(np.random.default_rng(1), 150))], most=3)
    first = report.top[0]
    assert first.account == "robot" and first.score > report.top[1].score
    assert {r.split()[0] for r in first.reasons} == {"up", "as", "active"}
    text = report_text(report)
    assert "720 images in an hour" in text and "A rank is no alarm" in text
    assert json.loads(json.dumps(as_tree(report), allow_nan=False))["top"][0]["images"] == 18_000
    shared = told(report, KEY)
    assert ("network", hashed(KEY, "network", "10.9.9.0/24")) in shared[0].indicators
    assert "robot" not in to_stix(shared, KEY) and "10.9.9.0" not in to_stix(shared, KEY)
    assert "10.9.9.0/24" in to_stix(told(report, KEY, plain=True), KEY)


def test_ranks_are_valid_p_values():
    values = np.array([3.0, 1.0, np.nan, 3.0, 2.0])
    assert rank_p(values).tolist() == [0.4, 0.8, 1.0, 0.4, 0.6]


def parquet(path, accounts, at, **columns):
    lists = {n: pa.array(list(v), pa.list_(pa.float32())) for n, v in columns.items()}
    pq.write_table(pa.table({"account": accounts, "at": at} | lists), path)
    return path


def test_coverage_is_one_by_chance_and_more_for_who_spreads(tmp_path):
    rng = np.random.default_rng(2)
    n = 40 * 100
    accounts = np.arange(n) % 40
    narrow = rng.normal(size=(40, 8))[accounts] + 0.3 * rng.normal(size=(n, 8))
    wide = rng.normal(size=(n, 8))
    features = np.where((accounts == 7)[:, None], wide, narrow).astype(np.float32)
    path = parquet(tmp_path / "a.parquet", accounts, START + np.arange(n) * 37.0,
                   features=features)  # fmt: skip
    report = scan([path], features=True, most=40)
    cover = {int(f.account): f.signals["coverage"] for f in report.top}
    assert max(cover, key=cover.get) == 7 and cover[7] > 1.5 * np.median(list(cover.values()))
    mixed = parquet(tmp_path / "b.parquet", rng.permutation(accounts), START + np.arange(n) * 37.0,
                    features=wide.astype(np.float32))  # fmt: skip
    found = [f.signals["coverage"] for f in scan([mixed], features=True, most=40).top]
    assert np.mean(found) == pytest.approx(1, abs=0.03)


def test_evidence_is_that_of_the_running_guard(tmp_path):
    rng = np.random.default_rng(3)
    bank = rng.normal(size=(20_000, 6)).astype(np.float32)
    said = rng.dirichlet([1, 1, 1], len(bank)).astype(np.float32)
    streams = [Stream(rng.integers(0, len(bank), 100), START + np.sort(rng.uniform(0, 1e6, 100)))
               for _ in range(1_500)]  # fmt: skip
    reference = calibrate(bank, said, None, streams, alpha=0.05, seed=1)
    copier = Stream(np.arange(3_000), START + np.arange(3_000.0))
    features = np.concatenate([bank[s.rows] for s in streams[:5]] + [bank[:3_000] * 3 + 2])
    answers = np.concatenate([said[s.rows] for s in streams[:5]] + [said[:3_000]])
    at = np.concatenate([s.at for s in (*streams[:5], copier)])
    accounts = np.repeat(np.arange(6), [100] * 5 + [3_000])
    mix = rng.permutation(len(at))
    path = parquet(tmp_path / "a.parquet", accounts[mix], at[mix], features=features[mix],
                   answers=answers[mix])  # fmt: skip
    report = scan([path], reference=reference, most=6)
    got = {int(f.account): f.suspicion for f in report.top}
    rows = reference.benign.rows(features, answers)
    for account in range(6):
        mine = np.flatnonzero(accounts == account)
        evidence, most = Evidence(), 0.0
        for values in all_windows(reference.benign, rows, Stream(mine, at[mine])):
            evidence = reference.after(evidence, values)
            most = max(most, reference.suspicion(evidence))
        assert got[account] == pytest.approx(most, rel=1e-3)
    assert report.top[0].account == "5" and got[5] >= 1
    alarmed = [v for v in got.values() if v >= 1]
    assert report.alarms == len(alarmed) == len(told(report, KEY))


def test_times_as_text_and_lines_that_say_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"account": "a", "at": "2026-01-02T03:04:05Z"}\n'
        '{"account": "a", "at": "2026-01-02T04:04:05+00:00"}\n'
        '{"account": null, "at": "2026-01-02T03:04:05Z"}\n'
        '{"at": "never", "account": "b"}\nnonsense\n'
    )
    report = scan([path])
    assert (report.rows, report.accounts, report.skipped) == (2, 1, 3)
    assert report.top[0].last - report.top[0].first == 3600
    assert report.top[0].first == 1767323045.0


def test_bad_logs_are_one_line(tmp_path):
    good = jsonl(tmp_path / "a.jsonl", log(np.random.default_rng(0), 3))
    other = tmp_path / "b.parquet"
    duckdb.sql("SELECT 1 AS x").write_parquet(str(other))
    broken = tmp_path / "c.parquet"
    broken.write_bytes(b"PAR1 but no more")
    ragged = parquet(tmp_path / "d.parquet", ["a", "b"], [1.0, 2.0], features=[[1.0], [1.0, 2.0]])
    empty = jsonl(tmp_path / "e.jsonl", [(None, 1.0, 1, "n")])
    cases = [
        ([tmp_path / "none.jsonl"], {}, "no such file"),
        ([tmp_path / "x.csv"], {}, "no such file"),
        ([good, ragged], {}, "accepted: files of one kind"),
        ([other], {}, "no column 'account'; its columns: x"),
        ([broken], {}, "cannot be read"),
        ([good], {"features": True}, "no column 'features'"),
        ([ragged], {"features": True}, "features: lists are missing or of unlike lengths"),
        ([empty], {}, "no row with an account"),
    ]
    for logs, options, says in cases:
        with pytest.raises(UserError) as e:
            scan(logs, **options)
        assert says in str(e.value) and "\n" not in str(e.value)
    assert not list(tmp_path.glob("dpsd-scan-*"))
