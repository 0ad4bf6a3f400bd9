"""Files that are whole or not there."""

import pytest

from dpsd.errors import UserError
from dpsd.files import append_lines, read_json, read_lines, whole_file, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    with pytest.raises(UserError, match=r"a\.json: cannot be written .*full"):  # noqa: SIM117
        with whole_file(path):
            raise OSError("full")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_an_unreadable_file_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{")
    for name in ("a.json", "b.json"):
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            read_json(tmp_path / name)


def test_lines_go_on_behind_one_that_was_cut_off(tmp_path):
    path = tmp_path / "a.jsonl"
    assert read_lines(path) == []
    append_lines(path, [{"a": 1}])
    with path.open("a") as f:
        f.write('{"a": ')
    append_lines(path, [{"a": 2}, {"a": 3}])
    assert read_lines(path) == [{"a": 1}, {"a": 2}, {"a": 3}]
