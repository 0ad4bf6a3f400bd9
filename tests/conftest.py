"""Fixtures that several tests share."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch

import dpsd.cli.report

HOME = tempfile.mkdtemp(prefix="dpsd-home-")  # ledgers of tests that name no root of their own
os.environ["DPSD_HOME"] = HOME
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start, as of this one:
dpsd.cli.report.REFRESHED = False  # of commands in this process: drawings take seconds
torch.set_num_threads(1)  # small tensors, where threads would only wait for each other
# A shell's background jobs ignore Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish() -> None:
    """Ledgers go away with the tests."""
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def dpsd_data() -> Path:
    """The folder of the real data sets; the test is skipped where there is none."""
    value = os.environ.get("DPSD_DATA")
    if not value or not Path(value).is_dir():
        pytest.skip("DPSD_DATA does not name a folder with MNIST, Fashion-MNIST and AT&T faces")
    return Path(value).resolve()


@pytest.fixture
def tiny_images() -> torch.Tensor:
    """Sixteen random images, uint8 [16, 1, 28, 28]."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (16, 1, 28, 28), dtype=torch.uint8, generator=generator)
