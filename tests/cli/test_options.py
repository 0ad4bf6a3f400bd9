"""Which words of a command line are settings, and which the positionals."""

from pathlib import Path

import pytest

from dpsd.cli import main
from dpsd.cli.options import Parser, add_setters

A, B = "privacy.epsilon=4", "loop.rounds=2"


@pytest.mark.parametrize(
    "words",
    [
        ["--set", A, B, "c.yaml"],
        ["c.yaml", "--set", A, B],
        ["--set", A, "--set", B, "c.yaml"],
        ["--set", A, "c.yaml", "--set", B],
        ["--set", A, "c.yaml", "--seed", "3", f"--set={B}"],
        ["c.yaml", "--set", A, "--json", "--set", B],
    ],
)
def test_settings_leave_the_configuration(words):
    parser = Parser()
    parser.add_argument("target")
    parser.add_argument("--json", action="store_true")
    add_setters(parser)
    args = parser.parse_args(words)
    assert args.target == "c.yaml" and args.set == [A, B]


@pytest.mark.parametrize(
    ("words", "beside"),
    [
        ("inversion run --beside a b", ["a", "b"]),
        ("inversion --beside a b run", ["a", "b"]),
        ("--beside a b inversion run", ["a", "b"]),
        ("inversion --beside a run --seed 3", ["a"]),
        ("inversion --seed 3 --beside a --beside b run", ["a", "b"]),
        ("inversion --beside a --json run", ["a"]),
        ("inversion run --json", []),
    ],
)
def test_other_runs_leave_the_positionals(words, beside):
    parser = Parser()
    parser.add_argument("kind")
    parser.add_argument("target")
    parser.add_argument("--beside", action="append", default=[])
    parser.add_argument("--seed")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(words.split())
    assert (args.kind, args.target, args.beside) == ("inversion", "run", beside)


def test_a_plan_with_settings_before_the_configuration(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("privacy: {epsilon: 1, answers: 40}")
    settings = ["--set", "privacy.epsilon=4", "loop.rounds=2"]
    assert main(["plan", *settings, str(tmp_path / "c.yaml"), "--device", "cpu"]) == 0
    assert "epsilon 4 per answer" in capsys.readouterr().out


def test_a_teacher_takes_several_dp_settings_before_the_configuration(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("data: {name: digits}")
    code = main(["teacher", "--dp", "epsilon=3", "lr=-1", str(tmp_path / "c.yaml")])
    assert code == 2 and "teacher.dp.lr: -1" in capsys.readouterr().err


def test_a_teacher_has_no_epsilon_of_answers(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(f"teacher: {{root: {tmp_path / 'teachers'}}}")
    assert main(["teacher", str(path), "--epsilon", "3"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--dp epsilon=3" in err
    assert not Path(tmp_path / "teachers").exists()
