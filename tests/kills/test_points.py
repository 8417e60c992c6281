"""The list of points itself. That it leaves nothing out is tested with each process, on what the process really did."""

import itertools
from pathlib import Path

import pytest

from tests.kills import dying, points
from tests.kills.points import Step

CALLS = {step.target: step for table in points.TABLES.values() for step in table if not step.target.startswith("sql:")}


@pytest.mark.parametrize("target", [dying.STATEMENTS, *sorted(CALLS)])
def test_what_a_step_is_named_by_is_there(target: str) -> None:
    seen = []
    dying.replace(target, lambda found: seen.append(found) or found)
    assert [True] == [callable(found) for found in seen]


@pytest.mark.parametrize("target", ["shared.inbox:clam", "shared.lease:LeasedInbox.taken", "shared.boxes:claim"])
def test_a_step_that_is_no_more_is_said_at_once(tmp_path: Path, target: str) -> None:
    with pytest.raises((LookupError, ModuleNotFoundError), match=r"clam|taken|boxes"):
        dying.Watch(tmp_path).over(Step("gone", target, "", ""))


def test_each_step_of_a_process_has_a_name_of_its_own_and_waits_for_one_of_its_table() -> None:
    for table in points.TABLES.values():
        names = [step.name for step in table]
        assert sorted(set(names)) == sorted(names)
        assert {step.since for step in table} - {""} <= set(names)


def test_every_drain_is_a_point() -> None:
    told = list(itertools.chain.from_iterable(points.DRAINS.values()))
    assert sorted(told) == sorted(str(point) for table in points.DRAINS for point in points.drains(table))
