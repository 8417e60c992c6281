"""`orderflow outbox` on a real database."""

import json
import uuid
from collections.abc import Callable

import pytest

from ops import outbox_command
from shared import config, outbox
from shared.database import Database
from tests.ops import commands
from tests.stack import TestDatabase

_INSERT = """
INSERT INTO order_outbox_events
  (event_id, event_type, occurred_at, aggregate_id, payload, topic, status, attempts, last_error, due_at, producer)
VALUES
  (:id, :kind, clock_timestamp(), :aggregate, '{}'::bytea, :topic, :status, 3, :error, clock_timestamp() + :later::interval, 'orders')
"""

Row = Callable[..., str]


@pytest.fixture
def row(database: TestDatabase) -> Row:
    """row(status, …) -> the event id of a new outbox row."""

    def insert(
        status: str, *, topic: str = "t.one", aggregate: str = "order-1", kind: str = "order.payment.completed", later: str = "0 s"
    ) -> str:
        event_id = uuid.uuid4().hex
        error = "too large" if status == "failed" else None
        database.run(_INSERT, id=event_id, kind=kind, aggregate=aggregate, topic=topic, status=status, error=error, later=later)
        return event_id

    return insert


def run(database: TestDatabase, *arguments: str) -> commands.Ran:
    return commands.run(outbox_command.app, *arguments, env={"RELAY_POSTGRES_DSN": database.dsn("orderflow_relay")})


def state(database: TestDatabase, event_id: str) -> list[object]:
    (found,) = database.run("SELECT status, attempts, last_error FROM order_outbox_events WHERE event_id = :id", id=event_id)
    return found


def test_list_shows_what_waits_and_what_was_set_aside_the_next_to_be_published_first(database: TestDatabase, row: Row) -> None:
    later, failed, sent, soon = row("pending", later="1 h"), row("failed"), row("sent"), row("pending", later="1 s")

    found = run(database, "list", "--json").json()

    assert [of["event_id"] for of in found] == [failed, soon, later]
    assert (found[0]["last_error"], found[0]["bytes"], found[0]["due"]) == ("too large", 2, True)
    assert [of["event_id"] for of in run(database, "list", "--status", "sent", "--json").json()] == [sent]
    assert len(run(database, "list", "--status", "all", "--json").json()) == 4


def test_list_filters_by_topic_order_and_type_and_says_when_there_are_more(database: TestDatabase, row: Row) -> None:
    wanted = row("failed", topic="t.two", aggregate="order-2", kind="order.assembly.completed")
    row("failed")

    for option in (["--topic", "t.two"], ["--order", "order-2"], ["--type", "order.assembly.completed"]):
        assert [of["event_id"] for of in run(database, "list", *option, "--json").json()] == [wanted]
    assert "1 of 2 rows" in run(database, "list", "--max", "1").err


def test_retry_makes_a_failed_row_pending_again_in_its_old_place_and_tells_the_relay(database: TestDatabase, row: Row) -> None:
    failed, other = row("failed"), row("failed")
    place = database.run("SELECT due_at, seq FROM order_outbox_events WHERE event_id = :id", id=failed)
    connected = Database(database.dsn(), settings=config.Settings(), application="test")

    with connected.listen(outbox.CHANNEL) as notified:
        assert run(database, "retry", failed, "--json").json() == {"retried": [failed], "left": []}
        assert notified(20)

    connected.close()
    assert state(database, failed) == ["pending", 0, None]
    assert database.run("SELECT due_at, seq FROM order_outbox_events WHERE event_id = :id", id=failed) == place
    assert state(database, other) == ["failed", 3, "too large"]


def test_retry_takes_every_failed_row_that_the_filters_leave(database: TestDatabase, row: Row) -> None:
    wanted, other, sent = row("failed", topic="t.two"), row("failed"), row("sent", topic="t.two")

    assert run(database, "retry", "--all", "--topic", "t.two", "--json").json()["retried"] == [wanted]

    assert [state(database, of)[0] for of in (wanted, other, sent)] == ["pending", "failed", "sent"]


@pytest.mark.parametrize("status", ["pending", "sent", "discarded"])
def test_retry_and_discard_leave_a_row_alone_that_has_not_failed(database: TestDatabase, row: Row, status: str) -> None:
    event_id = row(status)

    for arguments in (["retry"], ["discard", "--reason", "x", "--yes"]):
        ran = run(database, *arguments, event_id)
        assert (ran.code, f"there is no failed row {event_id}" in ran.err) == (1, True)
    assert state(database, event_id)[0] == status


def test_discard_keeps_the_row_with_the_reason_and_the_old_error(database: TestDatabase, row: Row) -> None:
    failed = row("failed")

    ran = run(database, "discard", failed, "--reason", "sent by hand: ticket 7", "--yes", "--json")

    assert ran.json() == {"discarded": [failed], "left": []}
    assert state(database, failed) == ["discarded", 3, "discarded: sent by hand: ticket 7; was: too large"]


def test_discard_asks_and_without_a_terminal_discards_nothing(database: TestDatabase, row: Row) -> None:
    failed = row("failed")

    ran = run(database, "discard", failed, "--reason", "x")

    assert (ran.code, "--yes" in ran.err, state(database, failed)[0]) == (2, True, "failed")


@pytest.mark.parametrize(
    "arguments",
    [
        ["retry"],
        ["retry", "--all", "some-id"],
        ["discard", "--all"],
        ["discard", "some-id", "--reason", " ", "--yes"],
        ["discard", "--reason", "x", "--yes"],
        ["list", "--status", "lost"],
    ],
)
def test_a_command_that_does_not_say_which_rows_or_why_is_a_usage_error(database: TestDatabase, arguments: list[str]) -> None:
    assert run(database, *arguments).code == 2


def test_a_database_that_is_away_is_named_without_its_password(unused_address: str) -> None:
    dsn = f"postgresql://someone:hidden-password@{unused_address}/orders"

    ran = commands.run(outbox_command.app, "list", env={"RELAY_POSTGRES_DSN": dsn})

    assert (ran.code, unused_address in ran.err) == (1, True)
    assert "hidden-password" not in ran.err + ran.out


def test_the_table_shows_one_row_a_line(database: TestDatabase, row: Row) -> None:
    failed = row("failed", aggregate="order\n1")

    lines = run(database, "list").out.splitlines()

    assert [line.split("\t")[0] for line in lines] == ["event_id", failed]
    assert json.dumps(lines[1].split("\t")[3]) == '"order 1"'
