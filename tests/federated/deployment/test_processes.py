"""No process is left behind, whatever happens to the one that started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from left_behind import needs_proc, until, with_mark

from dpsd.federated.deployment import processes as module
from dpsd.federated.deployment.processes import processes

FAMILY = """
import signal, subprocess, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("up", flush=True)
time.sleep(600)
"""
DRIVER = """
import sys, time
from pathlib import Path
from dpsd.federated.deployment.processes import processes
with processes(Path(sys.argv[1]), {"MARK": sys.argv[1]}) as running:
    one = running.start("one", [sys.executable, "-c", sys.argv[2], "plain"])
    time.sleep(600)
"""


@needs_proc
@pytest.mark.parametrize("kind", ["plain", "stubborn"])
def test_children_and_grandchildren_go_with_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(module, "_GRACE_S", 1.0)
    mark = f"{tmp_path}/mark"
    with (
        pytest.raises(ZeroDivisionError),
        processes(tmp_path, {"MARK": mark}) as running,
    ):
        one = running.start("one", [sys.executable, "-c", FAMILY, kind])
        assert until(lambda: "up" in one.log.read_text())
        assert len(with_mark(mark)) == 2
        raise ZeroDivisionError
    assert until(lambda: with_mark(mark) == [], seconds=30)
    assert running.codes() == {"one": -signal.SIGKILL if kind == "stubborn" else -signal.SIGTERM}


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_children_go_when_the_starter_is_signalled(tmp_path: Path, number: signal.Signals) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), "import time; print('up', flush=True); "
         "time.sleep(600)"], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        log = tmp_path / "one.log"
        assert until(lambda: log.exists() and "up" in log.read_text())
        assert len(with_mark(str(tmp_path))) == 1
        driver.send_signal(number)
        assert driver.wait(20) != 0
        assert until(lambda: with_mark(str(tmp_path)) == [], seconds=30)
    finally:
        driver.kill()
        driver.wait()


def test_exit_codes_and_output_are_kept(tmp_path: Path) -> None:
    with processes(tmp_path, dict(os.environ)) as running:
        script = "import os; print(os.environ['A']); exit(3)"
        one = running.start("one", [sys.executable, "-c", script], A="b")
        assert until(lambda: one.code is not None)
    assert running.codes() == {"one": 3}
    assert one.log.read_text() == "b\n"
