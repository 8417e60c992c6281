"""A short run of the whole: real servers, real faults, and a count that finds nothing lost and nothing doubled."""

import json
from pathlib import Path

import pytest

from tests.chaos import running


@pytest.mark.timeout(420)
def test_twenty_seconds_of_faults_loses_and_doubles_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    code, said = running.run("--minutes", "0.3", "--faults", "15", "--seed", "3", "--report", str(report))
    told = json.loads(report.read_text(encoding="utf-8"))
    assert (told["lost"], told["doubled"], told["disordered"], told["stuck"]) == (0, 0, 0, []), said
    assert set(told["lag"].values()) == {0}
    assert told["faults"] >= 15
    assert told["events"] > 100
    assert told["letters"] >= told["sent"]["poison"] > 0
    assert told["seed"] == 3
    assert (code, told["passed"]) == (0, True), said
