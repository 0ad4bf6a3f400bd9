import pytest

from dpsd.errors import UserError
from dpsd.imports import import_object, meant
from dpsd.models.networks import torchvision_model


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("mine_1.py:build", ["without .py", "did you mean mine_1:build?"]),
        ("./nets/mine_1.py:build", "did you mean nets.mine_1:build?"),
        ("mine_1.build", "did you mean mine_1:build?"),
        ("mine_2:build", ["module mine_2 was not found", "current folder {here} "]),
        ("mine_1.deeper:build", "module mine_1.deeper was not found"),
        ("needs_1:build", "cannot be imported (ModuleNotFoundError: No module named 'absent_1')"),
        ("mine_1:built", "it has build"),
    ],
)
def test_a_wrong_path_is_explained(tmp_path, monkeypatch, path, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_1").mkdir()
    (tmp_path / "mine_1/__init__.py").write_text("def build():\n    return 1\n")
    (tmp_path / "needs_1.py").write_text("import absent_1\n")
    assert import_object("mine_1:build")() == 1
    with pytest.raises(UserError) as e:
        import_object(path)
    for text in [says] if isinstance(says, str) else says:
        assert text.format(here=tmp_path) in str(e.value)


def test_a_dot_in_place_of_the_colon():
    assert meant("skinnet.SkinNet") == "; did you mean skinnet:SkinNet?"
    assert meant("defects.py") == "; did you mean defects:callable?"
    assert meant("resnet18") == meant("a:b") == meant("images/a.b") == ""
    with pytest.raises(UserError, match="did you mean defects:build"):
        torchvision_model("defects.build", 3)
