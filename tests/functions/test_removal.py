"""Old rows leave an inbox in small steps, and only those that no topic can bring again; under the roles that do it in production."""

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from shared import config, errors, removal
from shared.database import Database, Transaction
from shared.removal import Old, Removal, Walk
from tests import controls, stack
from tests.conftest import StartFunction

ORDER, NOTIFICATION = "order_inbox_events", "notification_inbox_events"
OLD_DAYS, YOUNG_DAYS = 33, 31  # an inbox remembers for 32
QUICK = {"REMOVAL_INTERVAL": "300ms"}
_FILL = """
INSERT INTO {inbox} (event_id, event_type, occurred_at, order_id, {columns})
SELECT '{name}-' || n, 'order.assembly.completed', now(), 'order-' || n, {values} FROM generate_series(1, :many::int) AS n
"""
_WRONG = """
SELECT count(*) FROM order_inbox_events AS inbox, removal_walks AS walk WHERE table_name = 'order_inbox_events' AND event_id LIKE 'old-%'
   AND inbox.ctid < ('(' || walk.next_page || ',0)')::tid
"""
MakeWalk = Callable[..., Walk]


def fill(made: stack.TestDatabase, inbox: str, name: str, many: int, days: int, *, status: str = "") -> None:
    """Rows that were handled so many days ago; those of a leased inbox with a status, and received a day before."""
    at = f"now() - interval '{days} days'"
    columns, values = ("received_at", at) if not status else ("received_at, status", f"{at} - interval '1 day', '{status}'")
    if status == "sent":
        columns, values = f"{columns}, processed_at", f"{values}, {at}"
    made.run(_FILL.format(inbox=inbox, name=name, columns=columns, values=values), many=many)


def left(made: stack.TestDatabase, inbox: str = ORDER) -> dict[str, int]:
    """How many rows there are of each name."""
    return dict(made.run(f"SELECT split_part(event_id, '-', 1), count(*) FROM {inbox} GROUP BY 1"))


@pytest.fixture
def walk(database: stack.TestDatabase) -> Iterator[MakeWalk]:
    """walk(inbox=ORDER, interval_s=0.001) -> a walk as the consumer's role, with a turn that is always due unless said otherwise."""
    bases: list[Database] = []

    def make(inbox: str = ORDER, interval_s: float = 0.001, old: Old | None = None) -> Walk:
        role = inbox.removesuffix("_inbox_events")
        bases.append(Database(database.dsn(f"orderflow_{role}"), settings=config.Settings(), application="removal"))
        found = Removal.of_inbox(inbox, config.Settings(), "test", leased=inbox == NOTIFICATION)
        return Walk(bases[-1], old or found.old, interval_s)

    yield make
    for base in bases:
        base.close()


def at_once(_pause_s: float) -> bool:
    return True


def test_old_rows_go_and_young_ones_stay(database: stack.TestDatabase, walk: MakeWalk) -> None:
    """However they lie among each other. The walk has a grant for no more than this."""
    for _ in range(3):
        fill(database, ORDER, f"old-{controls.new_id()}", 700, OLD_DAYS)
        fill(database, ORDER, f"young-{controls.new_id()}", 700, YOUNG_DAYS)
    one = walk()

    removed = sum(one.turn(at_once) for _ in range(20))

    assert (2100, {"young": 2100}) == (removed, left(database))


def test_a_step_is_a_few_pages_and_asks_before_the_next(database: stack.TestDatabase, walk: MakeWalk) -> None:
    """What is removed in one transaction is bounded whatever there is to do, and between two there is a pause."""
    fill(database, ORDER, "old", 10_000, OLD_DAYS)
    per_page = database.run(f"SELECT max(n) FROM (SELECT count(*) AS n FROM {ORDER} GROUP BY (ctid::text::point)[0]) AS pages")[0][0]
    pauses: list[float] = []

    def once(pause_s: float) -> bool:
        pauses.append(pause_s)
        return False

    removed = walk(interval_s=60).turn(once)

    assert removal.STEP_PAGES * per_page >= removed > 0
    assert 10_000 - removed == left(database)["old"]
    assert [True] == [pause_s >= removal.PAUSE_S for pause_s in pauses]


def test_a_turn_goes_on_where_the_last_one_ended(database: stack.TestDatabase, walk: MakeWalk) -> None:
    """Also in another process: the place is in the database, and so the end of a large table is reached by processes that live briefly."""
    fill(database, ORDER, "old", 10_000, OLD_DAYS)
    pages = int(database.run(f"SELECT pg_relation_size('{ORDER}') / 8192")[0][0])

    for _ in range(pages // removal.STEP_PAGES + 1):
        walk().turn(lambda _pause_s: False)

    assert {} == left(database)


def test_of_several_processes_one_has_the_turn(database: stack.TestDatabase, walk: MakeWalk) -> None:
    fill(database, ORDER, "old", 10_000, OLD_DAYS)
    walks = [walk(interval_s=3600) for _ in range(4)]
    found: list[int] = []
    threads = [threading.Thread(target=lambda one=one: found.append(one.turn(lambda _: False))) for one in walks]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [0, 0, 0] == sorted(found)[:3]
    assert 10_000 - max(found) == left(database)["old"] < 10_000


def test_a_step_waits_for_no_lock_and_is_taken_later(database: stack.TestDatabase, walk: MakeWalk) -> None:
    """Somebody has one of its rows: nothing of the step happens, and nobody queues up behind it."""
    fill(database, ORDER, "old", 100, OLD_DAYS)
    one = walk()
    held, end = threading.Event(), threading.Event()
    owner = Database(database.dsn(), settings=config.Settings(statement_timeout=50, delivery_deadline=60), application="o")

    def hold(tx: Transaction) -> None:
        tx.run(f"SELECT 1 FROM {ORDER} WHERE event_id = 'old-50' FOR UPDATE")
        held.set()
        end.wait(stack.PATIENCE_S)

    thread = threading.Thread(target=owner.transact, args=(hold,))
    thread.start()
    assert held.wait(stack.PATIENCE_S)
    with pytest.raises(errors.Busy):
        one.turn(at_once)
    assert {"old": 100} == left(database)
    end.set()
    thread.join()
    owner.close()

    assert 100 == one.turn(at_once)


def test_a_lease_without_an_outcome_is_never_removed(database: stack.TestDatabase, walk: MakeWalk) -> None:
    """Of a message that was sent the row goes, counted from the sending; of one whose outcome nobody knows it stays."""
    fill(database, NOTIFICATION, "old", 50, OLD_DAYS, status="sent")
    fill(database, NOTIFICATION, "claimed", 50, 1000, status="claimed")
    fill(database, NOTIFICATION, "young", 50, YOUNG_DAYS, status="sent")

    assert 50 == walk(NOTIFICATION).turn(at_once)
    assert {"claimed": 50, "young": 50} == left(database, NOTIFICATION)


def test_where_a_topic_has_no_limit_nothing_begins(database: stack.TestDatabase) -> None:
    """An inbox of which nobody knows what may still come for it: no thread, no connection, no row touched."""
    made = Removal.of_inbox("retired_inbox_events", config.Settings(), "test")
    made.start()

    assert [] == [thread.name for thread in threading.enumerate() if thread.name == "removal-retired_inbox_events"]


def test_the_age_of_the_oldest_row_is_told_after_a_walk(database: stack.TestDatabase, walk: MakeWalk) -> None:
    fill(database, ORDER, "old", 10, OLD_DAYS)
    fill(database, ORDER, "young", 10, YOUNG_DAYS)
    before = removal.removed_rows.labels(ORDER)._value.get()

    walk().turn(at_once)

    assert 10 == removal.removed_rows.labels(ORDER)._value.get() - before
    assert YOUNG_DAYS == round(removal.oldest_row.labels(ORDER)._value.get() / 86_400, 2)


def test_a_missing_walk_is_said(database: stack.TestDatabase, walk: MakeWalk) -> None:
    database.run("DELETE FROM removal_walks")

    with pytest.raises(errors.Unavailable, match="removal_walks has no row order_inbox_events: `orderflow migrate` makes it"):
        walk().turn(at_once)


# --- in its process ------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(database: stack.TestDatabase) -> dict[str, str]:
    return database.environment() | {"ORDER_POSTGRES_DSN": database.dsn("orderflow_order")} | QUICK


def deliver(function: stack.Process) -> dict[str, Any]:
    """Deliver one event; its payload."""
    payload = controls.assembled()
    assert {"outcome": "done"} == httpx.post(function.url, **controls.binary(payload), timeout=30).json()
    return payload


def test_a_function_removes_what_it_has_inserted_and_tells_how_much(
    database: stack.TestDatabase, environment: dict[str, str], start_function: StartFunction
) -> None:
    """The process that fills an inbox empties it, as its own role; the topic's name does not matter; deliveries go on."""
    fill(database, ORDER, "old", 3000, OLD_DAYS)
    fill(database, ORDER, "young", 10, YOUNG_DAYS)
    function = start_function("order_on_assembled", environment | {"KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC": "renamed"})
    deliver(function)

    stack.eventually(lambda: "old" not in left(database), "the old rows to go")

    deliver(function)
    assert {"young": 10, "assembled": 2} == left(database)
    told = ('orderflow_removed_rows_total{table="order_inbox_events"} 3000.0', 'orderflow_oldest_row_seconds{table="order_inbox_events"}')
    stack.eventually(lambda: all(line in httpx.get(f"{function.url}/metrics").text for line in told), "the metrics")


def test_kill_9_in_the_middle_leaves_nothing_half(
    database: stack.TestDatabase, environment: dict[str, str], start_function: StartFunction
) -> None:
    """What was removed and where the walk stands go together; the next process goes on from there."""
    fill(database, ORDER, "old", 30_000, OLD_DAYS)
    function = start_function("order_on_assembled", environment)
    deliver(function)
    stack.eventually(lambda: left(database)["old"] < 30_000, "a step")

    function.kill()

    stack.eventually(lambda: not _at_work(database), "the server to notice")
    assert ([[0]], True) == (database.run(_WRONG), 0 < left(database)["old"] < 30_000)
    function.start()
    function.wait_ready()
    deliver(function)
    stack.eventually(lambda: "old" not in left(database), "the rest")


def test_an_event_that_comes_again_while_its_row_goes_is_answered(
    database: stack.TestDatabase, environment: dict[str, str], start_function: StartFunction
) -> None:
    """Deliveries are answered all the while, each by what the inbox holds when it commits: a duplicate before, done after."""
    fill(database, ORDER, "old", 20_000, OLD_DAYS)
    function = start_function("order_on_assembled", environment)
    deliver(function)

    outcomes: set[str] = set()
    with httpx.Client(timeout=30) as client:
        for n in itertools.count(1):
            again = controls.assembled(event_id=f"old-{20_000 - n}", order_id=f"order-{20_000 - n}")
            outcomes.add(client.post(function.url, **controls.binary(again)).json()["outcome"])
            if database.run(f"SELECT count(*) FROM {ORDER} WHERE received_at < now() - interval '{OLD_DAYS - 1} days'") == [[0]]:
                break

    assert outcomes <= {"duplicate", "done"}


def _at_work(made: stack.TestDatabase) -> bool:
    return bool(made.run("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '% removal'"))
