"""Every link of the documents leads to a file and an anchor of the repository; no network."""

import re

import pytest
from pages import PAGES, ROOT, anchors, commands, links

NAMES = [str(p.relative_to(ROOT)) for p in PAGES]


def broken(page, text):
    """The targets of a page that are not there."""
    for target in links(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path).resolve()
        there = file.exists() and file.is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(file.read_text())):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    assert list(broken(page, page.read_text())) == []


def test_a_broken_link_is_found():
    page = ROOT / "README.md"
    text = "# One Two\n[a](README.md) [b](#one-two) [c](#none) [d](docs/no.md) ![p](no.png)\n"
    assert list(broken(page, text)) == ["#one-two", "#none", "docs/no.md", "no.png"]
    assert anchors(text) == {"one-two"} and "limits" in anchors(page.read_text())
    assert anchors("# A\n# A\n## `b.c`: d!\n```\n# no\n```\n") == {"a", "a-1", "bc-d"}


def test_every_page_can_be_reached_from_the_readme():
    reached, new = set(), [ROOT / "README.md"]
    while new:
        page = new.pop()
        reached.add(page)
        targets = (t.partition("#")[0] for t in links(page.read_text()) if "://" not in t)
        for target in filter(None, targets):
            file = (page.parent / target).resolve()
            if file.suffix == ".md" and file.exists() and file not in reached:
                new.append(file)
    unreached = {p for p in PAGES if p not in reached and p.parent.name != "dev"}
    assert unreached == set()


def test_the_readme_is_short_and_its_figures_stand_in_the_tables_of_the_docs():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    measured = "".join((ROOT / "docs" / f"{p}.md").read_text() for p in ("measured", "extraction"))
    figures = set(re.findall(r"\d+\.\d\d(?: ± \d\.\d\d)? %", text))
    assert len(figures) > 15
    loose = re.sub(r" %", "", measured)
    missing = {f for f in figures if f.removesuffix(" %") not in loose}
    assert missing <= {"10.94 %"}  # of the section Limits, named there


def test_figures_of_the_readme_s_tables_name_their_unit():
    text = (ROOT / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|") and " %" in line]
    assert len(rows) >= 15
    for row in rows:
        assert re.search(r"per answer|for one (record|user|client)|not private", row), row


def test_commands_are_read_as_a_shell_would():
    block = "dpsd a x.yaml \\\n    --set b=1   # why\n# all of it\ndpsd c && dpsd d &\n"
    assert commands(block) == ["dpsd a x.yaml --set b=1", "dpsd c", "dpsd d"]
