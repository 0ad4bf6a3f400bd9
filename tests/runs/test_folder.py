import json

import pytest

from dpsd.errors import UserError
from dpsd.runs.folder import open_run


def test_a_run_without_a_key_is_refused_in_one_line(tmp_path):
    (tmp_path / "private").mkdir()
    facts = {"run": "r", "started": "", "teacher_folder": "t", "teacher": "u"}
    (tmp_path / "private" / "run.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"run\.json: no key 'ledger_folder'; .*transcribe again"):
        open_run(tmp_path)
