"""Each test that the threat model names exists, and each requirement of AISVS C11 has a line."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/threat-model-serving.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
SECTIONS = {"11.1": 5, "11.2": 5, "11.3": 4, "11.4": 3}  # requirements of AISVS 1.0


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_the_named_test_exists(file, test):
    assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"


def test_no_requirement_is_left_out_and_what_is_claimed_has_a_test():
    rows = [line for line in TEXT.splitlines() if re.match(r"\| 11\.", line)]
    numbers = [row.split("|")[1].strip() for row in rows]
    assert numbers == [f"{s}.{k + 1}" for s, n in SECTIONS.items() for k in range(n)]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        claimed = cells[3].startswith(("met", "opt-in", "in part"))
        assert not claimed or cells[-1].startswith("`tests/"), cells[0]
