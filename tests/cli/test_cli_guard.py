"""dpsd guard scan, clusters, indicators, import, key: files, lines and exit codes."""

import json

import numpy as np
import pytest
from products import copy_of, tiny_run

from dpsd.cli import main
from dpsd.guard.indicators.sharing import Hashes, read_sharing_key
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Watched


@pytest.fixture
def runs(tmp_path, tmp_path_factory):
    source = tiny_run(tmp_path_factory)
    return [copy_of(source, tmp_path / name).path for name in ("ours", "theirs")]


def said(capsys, *words, code=0):
    assert main(["guard", *map(str, words)]) == code
    got = capsys.readouterr()
    return got.out if code == 0 else got.err


def fill(run, account, suspicion, network="203.0.113.0/24"):
    store = SqliteStore(run / "guard" / "guard.sqlite")
    hashes = Hashes(bytes(32), read_sharing_key(run / "guard" / "sharing.key"))
    store.saw(account, "network", hashes("network", network), 1e9, 5)
    store.watch(Watched(account, b"", suspicion=suspicion))
    store.close()


@pytest.mark.parametrize("form", ["json", "stix"])
def test_two_operators_share(runs, tmp_path, capsys, form):
    ours, theirs = runs
    assert "sharing key" in said(capsys, "key", ours)
    said(capsys, "key", theirs, "--use", ours / "guard" / "sharing.key")
    fill(ours, "copier", 1.5)
    fill(ours, "honest", 0.1, "192.0.2.0/24")
    fill(theirs, "suspect", 0.0)
    out = tmp_path / "told.json"
    text = said(capsys, "indicators", ours, "--format", form, "--out", out)
    assert text.startswith("1 accounts, 1 indicators")
    assert "1 indicators of 1 accounts are kept" in said(capsys, "import", theirs, out)
    assert "no cluster beyond chance" in said(capsys, "clusters", theirs)
    store = SqliteStore(theirs / "guard" / "guard.sqlite")
    assert store.watched("suspect").prior == 0.5
    assert [e["kind"] for e in store.events("")] == ["import", "clusters"]
    store.close()
    assert json.loads(said(capsys, "clusters", theirs, "--json")) == {"alpha": 0.02, "clusters": []}


def test_mistakes_are_one_line(runs, tmp_path, capsys):
    ours, theirs = runs
    key, junk = tmp_path / "key", tmp_path / "junk.json"
    key.write_text("00" * 32)
    junk.write_text("{")
    assert "no sharing key; dpsd guard key" in said(capsys, "indicators", ours, code=2)
    said(capsys, "key", ours)
    assert "there is another key" in said(capsys, "key", ours, "--use", key, code=2)
    assert "no such file" in said(capsys, "key", theirs, "--use", tmp_path / "no", code=2)
    assert "cannot be read" in said(capsys, "import", ours, junk, code=2)
    junk.write_text("[]")
    assert "no such file of dpsd" in said(capsys, "import", ours, junk, code=2)
    said(capsys, "key", theirs, "--use", key)
    told = tmp_path / "told.json"
    said(capsys, "indicators", theirs, "--out", told)
    assert "made under sharing key" in said(capsys, "import", ours, told, code=2)
    assert "--alpha: 1; accepted" in said(capsys, "clusters", ours, "--alpha", "1", code=2)
    assert "no such file" in said(capsys, "scan", tmp_path / "x.jsonl", code=2)
    assert "needs --out" in said(capsys, "scan", junk, "--sharing-key", key, code=2)


def test_scan_writes_report_and_indicators(tmp_path, capsys):
    rng, log, key = np.random.default_rng(0), tmp_path / "log.jsonl", tmp_path / "key"
    key.write_text("00" * 32)
    log.write_text("".join(
        json.dumps({"account": f"a{i % 9}", "at": 1e9 + float(at), "network": "10.0.0.0/24"}) + "\n"
        for i, at in enumerate(rng.uniform(0, 1e5, 200))
    ))  # fmt: skip
    text = said(capsys, "scan", log, "--top", 2, "--out", tmp_path / "o", "--sharing-key", key)
    assert "200 requests, 200 images, 9 accounts" in text
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert len(report["top"]) == 2 and report["alarms"] is None
    bundle = json.loads((tmp_path / "o" / "indicators.stix.json").read_text())
    assert sum(o["type"] == "indicator" for o in bundle["objects"]) == 2
    assert json.loads(said(capsys, "scan", log, "--json"))["rows"] == 200
