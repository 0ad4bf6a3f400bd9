"""What an override of the mechanism does to the keys of the file's mechanism."""

import pytest

from dpsd.cli import main
from dpsd.config import load_config
from dpsd.config.rules import MECHANISM_KEYS
from dpsd.config.sections import PrivacyConfig
from dpsd.errors import UserError

GROUP = "privacy: {mechanism: randomized_response, ask: group, epsilon: 1, answers: 400}"
GAUSSIAN = "privacy: {mechanism: gaussian, vector: probabilities, top_k: 3, epsilon: 1}"


@pytest.fixture
def loaded(tmp_path):
    """Reads a text with overrides; gives the privacy section and the lines about it."""

    def loaded(text, *overrides, drop=True):
        path, lines = tmp_path / "c.yaml", []
        path.write_text(text)
        config = load_config(path, overrides, lines.append if drop else None)
        return config.privacy, lines

    return loaded


def test_all_keys_of_a_mechanism_are_keys_of_the_section():
    keys = frozenset().union(*MECHANISM_KEYS.values())
    assert keys < PrivacyConfig.model_fields.keys()


def test_another_mechanism_drops_what_it_does_not_read(loaded):
    privacy, lines = loaded(GROUP, "privacy.mechanism=none")
    assert (privacy.epsilon, privacy.ask, privacy.answers) == (None, "label", 400)
    (line,) = lines
    assert "privacy.epsilon (1)" in line and "privacy.ask (group)" in line
    assert "mechanism" not in line.partition("read ")[2] and "answers" not in line


def test_what_both_read_stays(loaded):
    privacy, (line,) = loaded(GAUSSIAN, "privacy.mechanism=randomized_response")
    assert (privacy.epsilon, privacy.top_k, privacy.vector) == (1, 3, "onehot")
    assert "privacy.vector (probabilities)" in line and "top_k" not in line


def test_what_is_set_beside_the_mechanism_stays_and_is_checked(loaded):
    privacy, lines = loaded(GROUP, "privacy.ask=graded", "privacy.mechanism=gaussian")
    assert privacy.ask == "graded" and not lines
    with pytest.raises(UserError, match=r"privacy\.epsilon: 3.* privatises nothing"):
        loaded(GROUP, "privacy.mechanism=none", "privacy.epsilon=3")


@pytest.mark.parametrize("override", ["privacy.mechanism=randomized_response", "seed=3"])
def test_the_same_mechanism_drops_nothing(loaded, override):
    privacy, lines = loaded(GROUP, override)
    assert privacy.ask == "group" and not lines


def test_the_api_drops_nothing(loaded):
    with pytest.raises(UserError, match="it privatises nothing"):
        loaded(GROUP, "privacy.mechanism=none", drop=False)


def test_the_command_line_says_what_it_drops(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(GROUP)
    args = ["--set", "privacy.mechanism=none", str(tmp_path / "c.yaml"), "--device", "cpu"]
    assert main(["plan", *args]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("NOT PRIVATE")
    assert err.count("\n") == 1 and "privacy.ask (group), privacy.epsilon (1)" in err
