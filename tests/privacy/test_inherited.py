import json
from dataclasses import replace

import pytest

from dpsd.errors import UserError
from dpsd.privacy.inherited import DpTraining, _checksum, read_dp_ledger, write_dp_ledger

TRAINING = DpTraining("t", 1.3, 512 / 60_000, 1758, 1.0, 60_000, 1e-5)


@pytest.fixture(autouse=True)
def weights(tmp_path):
    """The weights that the training gave."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    return path


def test_what_is_written_is_read(tmp_path):
    write_dp_ledger(tmp_path, TRAINING)
    assert read_dp_ledger(tmp_path, "t") == TRAINING
    assert not list(tmp_path.glob("*.partial"))


def test_a_missing_ledger_is_refused(tmp_path):
    with pytest.raises(UserError, match="missing, so no guarantee is inherited; train the teacher"):
        read_dp_ledger(tmp_path, "t")


def test_a_ledger_of_another_teacher_is_refused(tmp_path):
    write_dp_ledger(tmp_path, TRAINING)
    with pytest.raises(UserError, match="belongs to teacher t, not u, so no guarantee"):
        read_dp_ledger(tmp_path, "u")


@pytest.mark.parametrize("change", [{"noise_multiplier": 13.0}, {"steps": 1}, {"teacher_uuid": "u"},
                                    {"checksum": "0"}, {"seeded_noise": True}])  # fmt: skip
def test_a_changed_ledger_fails_its_checksum(tmp_path, change):
    write_dp_ledger(tmp_path, TRAINING)
    path = tmp_path / "dp.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="fails its checksum"):
        read_dp_ledger(tmp_path, change.get("teacher_uuid", "t"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"checksum": 1}', '{"checksum": "a", "x": 1}']
)
def test_a_damaged_ledger_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "dp.json").write_text(text)
    with pytest.raises(UserError, match="damaged, so no guarantee") as e:
        read_dp_ledger(tmp_path, "t")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("bad", [{"noise_multiplier": 0.0}, {"sample_rate": 1.5}, {"steps": 0},
                                 {"steps": 1.5}, {"delta": 1.0}, {"noise_multiplier": float("nan")},
                                 {"max_grad_norm": float("inf")}, {"rows": 0}])  # fmt: skip
def test_parameters_that_no_training_has_are_refused(tmp_path, bad):
    with pytest.raises(UserError, match=f"{next(iter(bad))} is .*; accepted: above 0"):
        write_dp_ledger(tmp_path, replace(TRAINING, **bad))
    assert not (tmp_path / "dp.json").exists()


def test_a_guarantee_is_bound_to_the_weights(tmp_path, weights):
    """Before, any weights in the same place inherited the guarantee."""
    write_dp_ledger(tmp_path, TRAINING)
    weights.write_bytes(b"other weights")
    with pytest.raises(UserError, match=r"gave other weights .* restore the weights"):
        read_dp_ledger(tmp_path, "t")
    weights.unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors: cannot be read"):
        read_dp_ledger(tmp_path, "t")


def test_a_ledger_of_an_older_version_vouches_for_no_weights(tmp_path):
    write_dp_ledger(tmp_path, TRAINING)
    path = tmp_path / "dp.json"
    facts = json.loads(path.read_text())
    del facts["checksum"], facts["weights_sha256"]
    path.write_text(json.dumps(facts | {"checksum": _checksum(facts)}))
    with pytest.raises(UserError, match="names no weights, as an older version wrote it"):
        read_dp_ledger(tmp_path, "t")
