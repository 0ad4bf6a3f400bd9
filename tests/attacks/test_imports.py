"""One door: attacks may call a teacher and never feed training."""

import ast
from pathlib import Path

import dpsd

PACKAGE = Path(dpsd.__file__).parent
PRIVATE_SIDE = {PACKAGE / "cli" / "attacks.py", *(PACKAGE / "report").glob("*.py")}


def imports(path):
    """Names of the dpsd modules that a file imports, also inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return {name for name in found if name.startswith("dpsd")}


def test_nothing_that_trains_imports_an_attack():
    files = [p for p in PACKAGE.rglob("*.py") if "attacks" not in p.relative_to(PACKAGE).parts[:-1]]
    assert len(files) > 40
    for path in files:
        attacks = {n for n in imports(path) if n.startswith("dpsd.attacks")}
        assert not attacks or path in PRIVATE_SIDE, f"{path.name} imports {attacks}"


def test_attacks_write_into_no_release():
    for path in (PACKAGE / "attacks").rglob("*.py"):
        tree = ast.parse(path.read_text())
        used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert "save_weights" not in used, path.name
        released = [
            n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "release"
            and isinstance(n.value, ast.Name) and n.value.id == "run"
        ]  # fmt: skip
        assert not released, f"{path.name} touches run.release"
