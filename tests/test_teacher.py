"""The teacher's home: whose ledger is charged."""

import pytest
import torch

from dpsd.config import parse_config
from dpsd.errors import UserError
from dpsd.models import build_model
from dpsd.teacher import ensure_teacher, load_teacher


@pytest.mark.parametrize("named", [False, True])
def test_changed_weights_are_not_charged_to_the_old_ledger(tmp_path, named):
    """Also when the folder is known, as on resume, or named by teacher.path."""
    path = tmp_path / "w.pt"
    tree = {
        "device": "cpu",
        "data": {"name": "none", "shape": [1, 28, 28], "classes": 10},
        "teacher": {"model": "cnn-small", "weights": str(path)},
        "privacy": {"epsilon": 1.0},
    }
    torch.save(build_model("cnn-small", (1, 28, 28), 10).state_dict(), path)
    home = ensure_teacher(parse_config(tree), lambda text: None)
    load_teacher(parse_config(tree), home)
    torch.save(build_model("cnn-small", (1, 28, 28), 10).state_dict(), path)
    if named:
        tree["teacher"]["path"] = str(home.path)
        home = ensure_teacher(parse_config(tree), lambda text: None)
    with pytest.raises(UserError, match="is not the teacher that"):
        load_teacher(parse_config(tree), home)
