"""The Idempotency-Key, with a real database and real concurrency."""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from shared import database as databases
from shared.config import Settings
from tests import conftest, stack

Database = stack.TestDatabase
BODY = {"user_id": "user-1", "items": [{"product_id": "tea", "quantity": 2}, {"product_id": "cup", "quantity": 1}]}
REPLAYED = "idempotency-replayed"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, postgres: stack.PostgresServer) -> Iterator[tuple[str, Database]]:
    """One function and its database for this module."""
    made = postgres.new_database()
    process = stack.start_function("orders", made.environment(), tmp_path_factory.mktemp("orders") / "log.txt")
    yield process.url, made
    process.kill()
    postgres.drop(made)


@pytest.fixture
def database(served: tuple[str, Database]) -> Database:
    """The module's database, empty."""
    served[1].run("TRUNCATE orders, order_items, order_outbox_events, order_idempotency_keys")
    return served[1]


@pytest.fixture
def orders(served: tuple[str, Database], database: Database) -> Iterator[httpx.Client]:
    """The module's function, with an empty database."""
    del database
    with httpx.Client(base_url=served[0], timeout=30) as client:
        yield client


def place(orders: httpx.Client, key: str, body: Any = BODY) -> httpx.Response:
    return orders.post("/orders", json=body, headers={"Idempotency-Key": key})


def place_in_the_end(orders: httpx.Client, key: str) -> httpx.Response:
    """As a caller does who comes again when his key is in use for long."""
    while (answer := place(orders, key)).status_code == 409:
        pass
    return answer


def stored(database: Database) -> list[int]:
    """Orders, events and keys."""
    tables = ("orders", "order_outbox_events", "order_idempotency_keys")
    return [database.run(f"SELECT count(*) FROM {table}")[0][0] for table in tables]


def hold(database: Database, key: str) -> tuple[ThreadPoolExecutor, threading.Event]:
    """Take the key in a transaction that stays open until the event is set."""
    holder = databases.Database(database.dsn(), settings=Settings(delivery_deadline=60), application="holder")
    taken, release = threading.Event(), threading.Event()

    def work(tx: databases.Transaction) -> None:
        tx.run(
            "INSERT INTO order_idempotency_keys (user_id, key, body_sha256, order_id, response, expires_at)"
            " VALUES ('user-1', :key, '', 'other', 'first', now() + interval '1 hour')",
            key=key,
        )
        taken.set()
        assert release.wait(30)
        raise RuntimeError("rolled back on purpose")

    thread = ThreadPoolExecutor(1)
    thread.submit(holder.transact, work).add_done_callback(lambda _: holder.close())
    assert taken.wait(10)
    return thread, release


def test_a_repeat_gets_the_first_answer(orders: httpx.Client, database: Database) -> None:
    """The same status, body and address, marked as replayed; nothing more is stored."""
    first = place(orders, "k")
    # Another spelling of the same order: the items turned round, one of them in two parts.
    items = [{"product_id": "cup", "quantity": 1}, {"product_id": "tea", "quantity": 1}, {"product_id": "tea", "quantity": 1}]
    for body in (BODY, {"items": items, "user_id": "user-1"}):
        again = place(orders, "k", body)
        assert (again.status_code, again.content, again.headers["location"]) == (201, first.content, first.headers["location"])
        assert again.headers[REPLAYED] == "true"
    assert REPLAYED not in first.headers
    assert stored(database) == [1, 1, 1]


def test_another_body_is_refused(orders: httpx.Client, database: Database) -> None:
    """422 that names the header, and the first order stays the only one."""
    place(orders, "k")
    other = place(orders, "k", BODY | {"items": [{"product_id": "tea", "quantity": 3}]})
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_key_reused"
    assert [fault["field"] for fault in other.json()["errors"]] == ["Idempotency-Key"]
    assert stored(database) == [1, 1, 1]


def test_a_key_belongs_to_its_user(orders: httpx.Client, database: Database) -> None:
    """Two users may use the same key."""
    ids = {place(orders, "k", BODY | {"user_id": user}).json()["id"] for user in ("a", "b")}
    assert len(ids) == 2
    assert stored(database) == [2, 2, 2]


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"a b", b"a\tb", "ключ".encode()])
def test_a_malformed_key_is_refused(orders: httpx.Client, database: Database, key: bytes) -> None:
    """400: 1 to 255 visible ASCII characters; nothing is stored."""
    answer = orders.post("/orders", json=BODY, headers=[(b"Idempotency-Key", key)])
    assert answer.status_code == 400
    assert [fault["field"] for fault in answer.json()["errors"]] == ["Idempotency-Key"]
    assert stored(database) == [0, 0, 0]


def test_two_keys_in_one_request_are_refused(orders: httpx.Client) -> None:
    """Nobody can tell which was meant."""
    answer = orders.post("/orders", json=BODY, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    assert answer.status_code == 400


def test_the_longest_key_and_every_visible_character_are_taken(orders: httpx.Client) -> None:
    """255 characters, and all of ! to ~."""
    for key in ("x" * 255, "".join(map(chr, range(0x21, 0x7F)))):
        assert place(orders, key).status_code == 201
        assert place(orders, key).headers[REPLAYED] == "true"


def test_only_orders_that_were_placed_are_remembered(orders: httpx.Client, database: Database) -> None:
    """A body that was refused leaves its key free."""
    assert place(orders, "k", BODY | {"items": []}).status_code == 422
    assert place(orders, "k").status_code == 201
    assert stored(database) == [1, 1, 1]


def test_twenty_at_once_are_one_order(start_function: conftest.StartFunction, database: Database) -> None:
    """Whichever of two processes they reach: one order, one event, one answer for all."""
    urls = [start_function("orders", database.environment()).url for _ in range(2)]
    start = threading.Barrier(20)

    def buy(number: int) -> httpx.Response:
        with httpx.Client(base_url=urls[number % 2], timeout=30) as orders:
            start.wait()
            return place_in_the_end(orders, "k")

    with ThreadPoolExecutor(20) as people:
        answers = list(people.map(buy, range(20)))
    assert Counter(answer.status_code for answer in answers) == {201: 20}
    assert len({answer.content for answer in answers}) == 1
    assert sum(REPLAYED not in answer.headers for answer in answers) == 1
    assert stored(database) == [1, 1, 1]


def test_many_keys_at_once_are_each_one_order(orders: httpx.Client, database: Database, start_function: conftest.StartFunction) -> None:
    """Repeats in a mix of 15 keys, at two processes at once, neither block each other nor double."""
    with (
        httpx.Client(base_url=start_function("orders", database.environment()).url, timeout=30) as others,
        ThreadPoolExecutor(16) as people,
    ):
        answers = list(people.map(lambda n: place_in_the_end((orders, others)[n % 2], f"k{n * 7 % 15}"), range(240)))
    assert Counter(answer.status_code for answer in answers) == {201: 240}
    assert stored(database) == [15, 15, 15]


def test_a_key_that_is_worked_on_is_waited_for(orders: httpx.Client, database: Database) -> None:
    """When the first one fails, the repeat takes its place."""
    thread, release = hold(database, "k")
    with thread, ThreadPoolExecutor(1) as people:
        waiting = people.submit(place, orders, "k")
        stack.eventually(lambda: database.run("SELECT 1 FROM pg_locks WHERE NOT granted"), "the repeat to wait")
        release.set()
        assert waiting.result().status_code == 201
    assert stored(database) == [1, 1, 1]


def test_a_key_that_stays_in_use_is_409_and_holds_up_no_other(orders: httpx.Client, database: Database) -> None:
    """After 2 s, with Retry-After; meanwhile other orders pass, for repeats of one key take one connection."""
    thread, release = hold(database, "k")
    with thread, ThreadPoolExecutor(6) as people:
        began = time.monotonic()
        waiting = [people.submit(place, orders, "k") for _ in range(5)]
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        stack.eventually(lambda: database.run(waits) == [[1]], "a repeat to wait")
        other = place(orders, "other")
        most = 0
        while not all(each.done() for each in waiting):
            most = max(most, database.run(waits)[0][0])
        took_s = time.monotonic() - began
        release.set()
    answers = [each.result() for each in waiting]
    assert other.status_code == 201
    assert most == 1
    assert took_s >= 2
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_in_use")
        assert int(answer.headers["retry-after"]) >= 1
    assert stored(database) == [1, 1, 1]


def test_an_expired_key_is_free_again(start_function: conftest.StartFunction, database: Database) -> None:
    """IDEMPOTENCY_KEY_TTL after its order, with any body; the database's clock decides."""
    with httpx.Client(base_url=start_function("orders", database.environment() | {"IDEMPOTENCY_KEY_TTL": "1h"}).url, timeout=30) as orders:
        first = place(orders, "k")
        ((seconds,),) = database.run("SELECT extract(epoch FROM expires_at - created_at)::int FROM order_idempotency_keys")
        assert seconds == 3600
        database.run("UPDATE order_idempotency_keys SET expires_at = now() - interval '1 second'")
        second = place(orders, "k", BODY | {"items": [{"product_id": "new", "quantity": 1}]})
    assert (second.status_code, REPLAYED in second.headers) == (201, False)
    assert first.json()["id"] != second.json()["id"]
    assert stored(database) == [2, 2, 1]


def test_expired_keys_are_removed_in_steps(start_function: conftest.StartFunction, database: Database) -> None:
    """The first order after a while clears away more of them than one step takes, and none that is alive."""
    database.run(
        "INSERT INTO order_idempotency_keys (user_id, key, body_sha256, order_id, response, expires_at)"
        " SELECT 'u', n::text, '', '', '', now() + CASE WHEN n > 1300 THEN interval '1 hour' ELSE interval '-1 hour' END"
        " FROM generate_series(1, 1310) n"
    )
    with httpx.Client(base_url=start_function("orders", database.environment()).url, timeout=30) as orders:
        assert place(orders, str(uuid.uuid4())).status_code == 201
    stack.eventually(lambda: stored(database)[2] == 11, "the expired keys to be removed")
