"""A claim is a plain insert where events come once, and as careful as ever where they come again."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from shared import config, errors, events, grouping, inbox
from shared.database import Database, Transaction
from tests import controls, stack

TABLE = "order_inbox_events"


class Watched:
    """A transaction that keeps the statements it ran."""

    def __init__(self, tx: Transaction, seen: list[str]) -> None:
        self._tx, self._seen = tx, seen

    def run(self, sql: str, **params: object) -> list[Any]:
        self._seen.append(sql)
        return self._tx.run(sql, **params)


class Clock:
    """The time, which the test tells."""

    now = 1000.0


class Process:
    """What one process does with its events: claims them in transactions, repeated as a delivery's are."""

    def __init__(self, database: Database) -> None:
        self._database, self._inbox = database, inbox.Inbox(TABLE)
        self.careful: list[bool] = []  # of each statement that claimed

    def settle(self, *wanted: events.Event) -> list[Any]:
        return grouping.settle(wanted, self._commit, until=float("inf"))

    def _commit(self, part: Any, lock_timeout_ms: int | None) -> list[Any]:
        seen: list[str] = []
        try:
            return self._database.transact(
                lambda tx: self._inbox.claim(Watched(tx, seen), part),  # type: ignore[arg-type]  # it runs statements, and no more is asked
                lock_timeout_ms=lock_timeout_ms,
            )
        finally:
            self.careful += ["ON CONFLICT" in sql for sql in seen if "INSERT" in sql]


@pytest.fixture
def shared_database(database: stack.TestDatabase) -> Iterator[Database]:
    opened = Database(database.dsn("orderflow_order"), settings=config.Settings(), application="test")
    yield opened
    opened.close()


@pytest.fixture
def process(shared_database: Database) -> Process:
    return Process(shared_database)


def some(*ids: str, order_id: str = "order-1") -> list[events.OrderAssembled]:
    return [events.OrderAssembled.model_validate(controls.assembled(event_id=one, order_id=order_id)) for one in ids]


def rows(database: stack.TestDatabase) -> list[str]:
    return [row[0] for row in database.run(f"SELECT event_id FROM {TABLE} ORDER BY event_id")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(inbox.time, "monotonic", lambda: found.now)
    return found


def test_events_that_come_once_are_claimed_by_a_plain_insert(process: Process, database: stack.TestDatabase) -> None:
    assert process.settle(*some("b", "a", "c")) == ["claimed"] * 3
    assert process.settle(*some("d")) == ["claimed"]
    assert process.settle(*some("f", "e")) == ["claimed"] * 2
    assert (rows(database), process.careful) == (["a", "b", "c", "d", "e", "f"], [True, False, False])


def test_one_repeat_among_new_events_costs_one_transaction_more_and_changes_no_outcome(
    process: Process, database: stack.TestDatabase
) -> None:
    process.settle(*some("b"))
    assert process.settle(*some("a", "b", "c")) == ["claimed", "duplicate", "claimed"]
    assert (rows(database), process.careful) == (["a", "b", "c"], [True, False, True])


def test_after_a_repeat_a_process_is_careful_until_none_has_come_for_a_while(process: Process, clock: Clock) -> None:
    process.settle(*some("a"))
    process.settle(*some("a"))
    clock.now += inbox.REPEATS_S - 0.1
    assert process.settle(*some("a", "b")) == ["duplicate", "claimed"]
    clock.now += inbox.REPEATS_S - 0.1
    assert process.settle(*some("c")) == ["claimed"]
    clock.now += 0.2
    assert process.settle(*some("d")) == ["claimed"]
    assert process.settle(*some("e")) == ["claimed"]
    assert process.careful == [True, False, True, True, True, True, False]


def test_an_inbox_that_has_lost_its_key_is_found_and_lets_nothing_more_in(
    process: Process, database: stack.TestDatabase, clock: Clock
) -> None:
    process.settle(*some("a"))
    database.run(f"ALTER TABLE {TABLE} DROP CONSTRAINT {TABLE}_pkey")
    clock.now += inbox.REPEATS_S
    for _ in range(2):
        (failed,) = process.settle(*some("a"))
        assert isinstance(failed, errors.Bug)
    assert rows(database) == ["a"]
    database.run(f"ALTER TABLE {TABLE} ADD PRIMARY KEY (event_id)")
    assert process.settle(*some("a", "b")) == ["duplicate", "claimed"]


def test_an_id_of_another_event_is_refused_at_the_first_try_too(process: Process) -> None:
    process.settle(*some("a"))
    refused, claimed = process.settle(*some("a", order_id="order-2"), *some("b"))
    assert isinstance(refused, errors.Refused)
    assert (refused.code, claimed) == ("event_id_reused", "claimed")


def test_processes_with_the_same_events_at_the_same_time_claim_each_once(shared_database: Database, database: stack.TestDatabase) -> None:
    wanted = some(*(f"e{n:03}" for n in range(200)))
    processes, outcomes = [Process(shared_database) for _ in range(4)], []

    def run(one: Process) -> None:
        outcomes.append(one.settle(*wanted))

    threads = [threading.Thread(target=run, args=(one,)) for one in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in zip(*outcomes, strict=True):
        assert sorted(each) == ["claimed", "duplicate", "duplicate", "duplicate"]
    assert len(rows(database)) == len(wanted)


def test_what_the_database_does_not_take_is_refused_alone(process: Process, database: stack.TestDatabase) -> None:
    database.run(f"ALTER TABLE {TABLE} ADD CONSTRAINT odd CHECK (event_id <> 'b')")
    first, second, third = process.settle(*some("a", "b", "c"))
    assert (first, third, rows(database)) == ("claimed", "claimed", ["a", "c"])
    assert isinstance(second, errors.Refused)
    assert (second.code, second.place) == ("constraint", "odd")
