import pytest

from dpsd.config import parse_config
from dpsd.data.identity import dataset_fingerprint, dataset_home, dataset_name, rows_fingerprint
from dpsd.data.load import load_data
from dpsd.errors import UserError


def unnamed(tmp_path, dataset=None):
    config = parse_config({"teacher": {"root": str(tmp_path)}, "privacy": {"epsilon": 1}})
    data = config.data.model_copy(update={"name": "somebody.else:rows", "dataset": dataset})
    return config.model_copy(update={"data": data}), load_data(config.data)


@pytest.mark.parametrize("older", [rows_fingerprint, dataset_fingerprint])
def test_a_ledger_under_the_first_name_of_a_data_set_is_found_again(tmp_path, older):
    """A second one would forget what was released about the same records."""
    config, data = unnamed(tmp_path, "patients")
    (tmp_path / "datasets" / older(data)).mkdir(parents=True)
    (tmp_path / "datasets" / older(data) / "dataset.json").write_text('{"uuid": "u"}')
    with pytest.raises(UserError, match=r"move that folder to .*/patients, so that they go on"):
        dataset_home(config, data, "a test")
    (tmp_path / "datasets" / older(data)).rename(tmp_path / "datasets" / "patients")
    assert dataset_home(config, data, "a test") == {"folder": "datasets/patients", "uuid": "u"}
    hashed, data = unnamed(tmp_path, older(data))  # it would be released
    with pytest.raises(UserError, match="is made of the data; accepted: another name"):
        dataset_home(hashed, data, "a test")


def test_a_data_set_is_known_by_its_name_alone(tmp_path):
    config, data = unnamed(tmp_path)
    assert dataset_name(config) is None
    with pytest.raises(UserError, match="a test needs a name"):
        dataset_home(config, data, "a test")
    assert not (tmp_path / "datasets").exists()
    config, data = unnamed(tmp_path, "patients")
    home = dataset_home(config, data, "a test")
    assert home["folder"] == "datasets/patients" and home == dataset_home(config, None, "a test")
