import pytest
from ensembles import ensemble_config

from dpsd.config import parse_config
from dpsd.errors import UserError

INHERITED = {"route": "inherited", "mechanism": "none", "unit": "record", "epsilon": None}


def changed(section, **fields):
    tree = ensemble_config()
    tree[section] = tree[section] | fields
    return tree


@pytest.mark.parametrize(
    "privacy",
    [{}, {"unit": "user"}, {"top_k": 2}, INHERITED],
)
def test_accepted(privacy):
    p = parse_config(changed("privacy", **privacy)).privacy
    assert p.route == privacy.get("route", "ensemble")


@pytest.mark.parametrize(
    ("section", "fields", "says"),
    [
        ("privacy", {"route": "single"}, "accepted: route ensemble with mechanism noisy_votes"),
        ("privacy", {"mechanism": "gaussian"}, "privacy.route: ensemble with mechanism gaussian"),
        ("privacy", {"mechanism": "none", "epsilon": None}, "privacy.route: ensemble with"),
        ("privacy", {"unit": "answer"}, "accepted: record, user"),
        ("privacy", {"epsilon": None}, "privacy.epsilon: null"),
        ("teacher", {"shards": None}, "teacher.shards: null"),
        ("teacher", {"shards": 1}, "teacher.shards: 1"),
        ("data", {"name": "image_folder"}, "data.rows: null"),
        ("privacy", INHERITED | {"mechanism": "noisy_votes", "epsilon": 1}, "privacy.route"),
        ("privacy", INHERITED | {"mechanism": "gaussian", "epsilon": 1}, "accepted: none, since"),
        ("privacy", INHERITED | {"unit": "answer"}, "accepted: record"),
        ("privacy", INHERITED | {"unit": "user"}, "accepted: record"),
        ("privacy", INHERITED | {"epsilon": 1}, "the teacher's own is stated; set it to null"),
        ("privacy", INHERITED | {"route": "single"}, "open answers protect nobody"),
        ("privacy", {"route": "single", "mechanism": "gaussian"}, "accepted: unit answer, route"),
    ],
)  # fmt: skip
def test_refused_in_one_line(section, fields, says):
    with pytest.raises(UserError) as e:
        parse_config(changed(section, **fields))
    assert says in str(e.value) and "\n" not in str(e.value)


def test_the_user_unit_needs_ids():
    tree = changed("privacy", unit="user")
    del tree["data"]["user_ids"]
    with pytest.raises(UserError, match=r"data\.user_ids: null"):
        parse_config(tree)
