import pytest

from dpsd.tables import Table, facts_table

TABLE = Table(("attack", "AUC"), [("lira | x", "0.5"), ("a<b", "12.25")], title="Found")


def test_text_aligns_numbers_right():
    assert TABLE.text() == "Found\nattack      AUC\nlira | x    0.5\na<b       12.25"


def test_markdown_escapes_pipes():
    lines = TABLE.markdown().splitlines()
    assert lines[:2] == ["**Found**", ""]
    assert lines[2:] == ["| attack | AUC |", "|---|---:|", r"| lira \| x | 0.5 |",
                         "| a<b | 12.25 |"]  # fmt: skip


def test_html_escapes_cells():
    assert "<td>a&lt;b</td>" in TABLE.html()
    assert TABLE.html().count("<tr>") == 3


def test_facts_have_no_head_and_no_spaces_at_the_end():
    assert facts_table([("a", "1"), ("long", "")]).text() == "a     1\nlong"


def test_a_short_row_is_refused():
    with pytest.raises(ValueError, match="1 cells in a row of 2"):
        Table(("a", "b"), [("x",)])
