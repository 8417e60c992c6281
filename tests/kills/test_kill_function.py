"""A function whose whole effect is one transaction dies at each step of the pipe, and its events are delivered again.

What it does when a handler stands still in the middle, and at SIGTERM under load: tests/functions/test_pipe.py, test_server.py.
"""

import httpx
import pytest

from shared import events
from tests import controls, stack
from tests.kills import mortal, points
from tests.kills.conftest import ServeMortal
from tests.kills.mortal import Mortal
from tests.kills.points import Point

CONSUMER = "assembly-service"


@pytest.fixture(scope="module")
def assembly(serve_mortal: ServeMortal, module_database: stack.TestDatabase) -> Mortal:
    return serve_mortal("pipe", "assembly_on_payment", module_database.environment())


def rows(database: stack.TestDatabase, payloads: list[controls.Payload]) -> tuple[int, int]:
    """How many of `payloads` the inbox has, and how many events of their orders were staged: each must be the one that it causes."""
    ids = [payload["event_id"] for payload in payloads]
    [[claimed]] = database.run("SELECT count(*) FROM assembly_inbox_events WHERE event_id = ANY(:ids)", ids=ids)
    staged = database.run(
        "SELECT event_id FROM order_outbox_events WHERE aggregate_id = ANY(:ids)", ids=[payload["order_id"] for payload in payloads]
    )
    assert {row[0] for row in staged} <= {events.derived_id(CONSUMER, events.OrderAssembled.TYPE, 0, event_id) for event_id in ids}
    return int(claimed), len(staged)


def outcomes(answer: httpx.Response | None) -> list[str]:
    assert answer is not None
    return [result["outcome"] for result in answer.json()["results"]]


@pytest.mark.parametrize("point", points.of("pipe"), ids=points.id_of)
def test_events_of_a_function_that_died_have_their_effect_once(assembly: Mortal, module_database: stack.TestDatabase, point: Point) -> None:
    payloads = [controls.paid() for _ in range(3)]
    if point.step.aside:
        assembly.fresh()
    assembly.order(point)
    answer = mortal.attempt(assembly.url, **controls.batch(payloads))
    assembly.died(point)
    assert answer is None or point.may_have_answered
    assert rows(module_database, payloads) == {"again": (0, 0), "kept": (3, 3)}[point.left]

    assembly.again()
    again = mortal.attempt(assembly.url, **controls.batch(payloads))
    assert outcomes(again) == [{"again": "done", "kept": "duplicate"}[point.left]] * 3
    assert rows(module_database, payloads) == (3, 3)


@pytest.mark.parametrize("point", points.drains("pipe"), ids=points.id_of)
def test_a_function_that_is_asked_to_end_finishes_and_answers_first(
    assembly: Mortal, module_database: stack.TestDatabase, point: Point
) -> None:
    payloads = [controls.paid() for _ in range(3)]
    assembly.order(point, "term")
    answer = mortal.attempt(assembly.url, **controls.batch(payloads))
    assembly.drained(point)
    assert outcomes(answer) == ["done"] * 3
    assembly.again()
    assert outcomes(mortal.attempt(assembly.url, **controls.batch(payloads))) == ["duplicate"] * 3
    assert rows(module_database, payloads) == (3, 3)


def test_the_list_has_every_step_of_the_pipe(serve_mortal: ServeMortal, module_database: stack.TestDatabase) -> None:
    traced = serve_mortal("pipe", "assembly_on_payment", module_database.environment(), traced=True)
    assert outcomes(mortal.attempt(traced.url, **controls.batch([controls.paid()]))) == ["done"]
    steps = points.TABLES["pipe"]
    stack.eventually(lambda: traced.has_passed(steps), "every step to be passed")
    in_order = [step for step in steps if not step.aside]
    assert mortal.order_of(traced.trace(), in_order) == [step.name for step in in_order]
    assert mortal.uncovered(traced.trace()) == []
