"""notify dies at each step of a lease: a message repeats only where nobody wrote down that it was sent, and the log says so.

A death while Telegram has the message and has not answered: tests/functions/test_notify.py.
"""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests import controls, stack
from tests.functions.telegram_server import TelegramServer
from tests.kills import mortal, points
from tests.kills.conftest import ServeMortal
from tests.kills.mortal import Mortal
from tests.kills.points import Point

# What is there after a death: the messages, and the row's status.
LEFT = {
    "unclaimed": (0, None),
    "unsent": (0, "claimed"),
    "sent": (1, "claimed"),
    "marked": (1, "sent"),
    "held": (1, "claimed"),
    "free": (1, "claimed"),
}


@pytest.fixture(scope="module")
def telegram() -> Iterator[TelegramServer]:
    with TelegramServer() as server:
        yield server


def environment(database: stack.TestDatabase, telegram: TelegramServer) -> dict[str, str]:
    """With leases that end only when a test says so."""
    settings = {"TELEGRAM_ENABLED": "true", "TELEGRAM_BOT_TOKEN": "123:secret", "TELEGRAM_CHAT_ID": "42", "TELEGRAM_URL": telegram.url}
    return database.environment() | settings | {"NOTIFICATION_LEASE": "10m", "TELEGRAM_TIMEOUT": "1m"}


@pytest.fixture(scope="module")
def notify(serve_mortal: ServeMortal, module_database: stack.TestDatabase, telegram: TelegramServer) -> Mortal:
    return serve_mortal("lease,give back", "notify", environment(module_database, telegram))


def send(notify: Mortal, payload: controls.Payload) -> httpx.Response | None:
    return mortal.attempt(notify.url, **controls.binary(payload))


def settled(notify: Mortal, database: stack.TestDatabase, payload: controls.Payload) -> tuple[str, bool]:
    """The outcome of an event that is delivered again, and whether a lease lived until its end was made to come."""
    answer = send(notify, payload)
    assert answer is not None
    leased = (answer.status_code, answer.json().get("code")) == (409, "leased")
    if leased:
        ends = "UPDATE notification_inbox_events SET lease_ends_at = clock_timestamp() WHERE event_id = :id"
        database.run(ends, id=payload["event_id"])
        answer = send(notify, payload)
        assert answer is not None
    return str(answer.json()["outcome"]), leased


def status(database: stack.TestDatabase, payload: controls.Payload) -> str | None:
    found = database.run("SELECT status FROM notification_inbox_events WHERE event_id = :id", id=payload["event_id"])
    return str(found[0][0]) if found else None


def named(notify: Mortal, payload: controls.Payload) -> bool:
    """Whether its log names the event as one that may be sent twice."""
    lines = [line for line in notify.process.text.splitlines() if "no outcome of an earlier try was recorded" in line]
    return payload["event_id"] in [json.loads(line)["event_id"] for line in lines]


@pytest.mark.parametrize("point", points.of("lease"), ids=points.id_of)
def test_a_message_repeats_only_where_its_outcome_was_not_recorded(
    notify: Mortal, module_database: stack.TestDatabase, telegram: TelegramServer, point: Point
) -> None:
    payload = controls.paid()
    notify.order(point)
    answer = send(notify, payload)
    notify.died(point)
    assert answer is None or point.may_have_answered
    assert (len(telegram.about(payload["order_id"])), status(module_database, payload)) == LEFT[point.left]

    notify.again()
    repeats = point.left in {"unsent", "sent"}
    assert settled(notify, module_database, payload) == ("duplicate" if point.left == "marked" else "done", repeats)
    assert len(telegram.about(payload["order_id"])) == (2 if point.left == "sent" else 1)
    assert status(module_database, payload) == "sent"
    assert named(notify, payload) == repeats


@pytest.mark.parametrize("point", points.of("give back"), ids=points.id_of)
def test_a_message_that_telegram_did_not_take_is_sent_once_more(
    notify: Mortal, module_database: stack.TestDatabase, telegram: TelegramServer, point: Point
) -> None:
    payload = controls.paid()
    telegram.answers = [(500, {})]
    notify.order(point)
    assert send(notify, payload) is None
    notify.died(point)
    assert (len(telegram.about(payload["order_id"])), status(module_database, payload)) == LEFT[point.left]

    notify.again()
    assert settled(notify, module_database, payload) == ("done", point.left == "held")
    assert len(telegram.about(payload["order_id"])) == 2  # the one that was refused, and this
    assert named(notify, payload) == (point.left == "held")


@pytest.mark.parametrize("point", points.drains("lease"), ids=points.id_of)
def test_a_message_is_sent_marked_and_answered_before_the_end(
    notify: Mortal, module_database: stack.TestDatabase, telegram: TelegramServer, point: Point
) -> None:
    payload = controls.paid()
    notify.order(point, "term")
    answer = send(notify, payload)
    notify.drained(point)
    notify.again()
    assert answer is not None
    assert (answer.json(), status(module_database, payload)) == ({"outcome": "done"}, "sent")
    assert settled(notify, module_database, payload) == ("duplicate", False)
    assert len(telegram.about(payload["order_id"])) == 1


def test_the_list_has_every_step_of_a_lease(
    serve_mortal: ServeMortal, module_database: stack.TestDatabase, telegram: TelegramServer
) -> None:
    traced = serve_mortal("lease,give back", "notify", environment(module_database, telegram), traced=True)
    assert settled(traced, module_database, controls.paid()) == ("done", False)
    steps = points.TABLES["lease"]
    stack.eventually(lambda: traced.has_passed(steps), "every step to be passed")
    assert mortal.order_of(traced.trace(), steps) == [step.name for step in steps]
    telegram.answers = [(500, {})]
    assert send(traced, controls.paid()) is not None
    assert traced.has_passed(points.TABLES["give back"])
    assert mortal.uncovered(traced.trace()) == []
