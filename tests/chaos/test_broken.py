"""The count is counted: with an inbox that forgets, a run has to fail."""

import json
import shutil
from pathlib import Path

import pytest

from tests.chaos import running


@pytest.mark.skipif(shutil.which("go") is None, reason="NOT SHOWN that the checker finds a broken inbox: Go is missing (golang-go)")
@pytest.mark.timeout(420)
def test_a_run_whose_inbox_forgets_finds_what_is_doubled(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    code, said = running.run("--minutes", "0.1", "--seed", "5", "--break", "inbox", "--report", str(report))
    told = json.loads(report.read_text(encoding="utf-8"))
    assert told["sent"]["duplicate"] > 0
    assert told["doubled"] > 0, said
    assert (code, told["passed"]) == (1, False), said
