from dpsd.config import parse_config
from dpsd.data.identity import dataset_fingerprint, dataset_home, rows_fingerprint
from dpsd.data.load import load_data


def unnamed(tmp_path):
    config = parse_config({"teacher": {"root": str(tmp_path)}, "privacy": {"epsilon": 1}})
    data = config.data.model_copy(update={"name": "somebody.else:rows"})
    return config.model_copy(update={"data": data}), load_data(config.data)


def test_a_ledger_under_the_first_name_of_a_data_set_is_found_again(tmp_path):
    """A second one would forget what was released about the same records."""
    config, data = unnamed(tmp_path)
    (tmp_path / "datasets" / rows_fingerprint(data)).mkdir(parents=True)
    home = dataset_home(config, data)
    assert home["folder"] == f"datasets/{rows_fingerprint(data)}"
    assert dataset_home(config, data) == home


def test_an_unnamed_data_set_is_known_by_its_rows(tmp_path):
    config, data = unnamed(tmp_path)
    assert dataset_home(config, data)["folder"] == f"datasets/{dataset_fingerprint(data)}"
