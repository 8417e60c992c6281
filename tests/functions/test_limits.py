"""More than can be handled: what is beyond a limit is told at once to come again, nothing of it is done, and afterwards it goes through."""

import contextlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from shared import config
from shared import database as databases
from tests import conftest, controls, stack

ORDER = {"user_id": "user-1", "items": [{"product_id": "tea", "quantity": 1}]}
_BARRIER = """
CREATE FUNCTION wait_at_the_barrier() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WHILE NOT pg_try_advisory_xact_lock_shared(7) LOOP PERFORM pg_sleep(0.02); END LOOP;
    RETURN NEW;
END $$
"""
PATIENT = {"STATEMENT_TIMEOUT": "60s", "DELIVERY_DEADLINE": "90s", "LOCK_TIMEOUT": "30s"}


class Barrier:
    """Every insert into a table waits while `down`, and not for a lock, which has a limit of its own."""

    def __init__(self, database: stack.TestDatabase, table: str) -> None:
        self._dsn, self._run, self._table = database.dsn(), database.run, table
        database.run(_BARRIER)
        database.run(f"CREATE TRIGGER barrier BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION wait_at_the_barrier()")

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        keeper = databases.Database(self._dsn, settings=config.Settings(), application="barrier")
        try:
            with keeper.session() as session:
                session.run("SELECT pg_advisory_lock(7)")
                yield
        finally:
            keeper.close()

    def wait_for(self, transactions: int) -> None:
        """Wait until so many transactions stand before it."""
        at_it = f"SELECT count(DISTINCT pid) FROM pg_locks WHERE relation = '{self._table}'::regclass AND mode = 'RowExclusiveLock'"
        stack.eventually(lambda: self._run(at_it) == [[transactions]], f"{transactions} transactions at the barrier")


def assert_come_again(answer: httpx.Response, code: str) -> None:
    assert (429, code, "application/problem+json") == (answer.status_code, answer.json()["code"], answer.headers["content-type"])
    assert int(answer.headers["retry-after"]) >= 1


def assert_open_to_probes(process: stack.Process) -> None:
    for path in ("health", "ready", "metrics"):
        assert httpx.get(f"{process.url}/{path}", timeout=30).status_code == 200, path


def test_an_order_beyond_those_that_are_worked_on_is_told_at_once_to_come_again(
    start_function: conftest.StartFunction, database: stack.TestDatabase
) -> None:
    """Two wait for the database, the third, an order or a question, does not; afterwards it is placed, and there are three."""
    limits = {"ORDERS_CONCURRENT_REQUESTS_MAX": "2", "POSTGRES_CONNECTIONS": "4"}
    process = start_function("orders", database.environment() | PATIENT | limits)
    barrier = Barrier(database, "orders")
    with ThreadPoolExecutor(2) as people, httpx.Client(base_url=process.url, timeout=60) as third:
        with barrier.down():
            first = []
            for n in (1, 2):
                first.append(people.submit(httpx.post, f"{process.url}/orders", json=ORDER, timeout=60))
                barrier.wait_for(n)
            assert_come_again(third.post("/orders", json=ORDER), "too_many_at_once")
            assert_come_again(third.post("/orders", content=b"{"), "too_many_at_once")  # without a look at it
            assert_come_again(third.get("/orders/unknown"), "too_many_at_once")
            assert_open_to_probes(process)
            assert not any(each.done() for each in first)
        assert [201, 201] == [each.result().status_code for each in first]
        assert third.post("/orders", json=ORDER).status_code == 201
        assert 'status="429"' in third.get("/metrics").text
    assert [[3]] == database.run("SELECT count(*) FROM orders")


def test_who_is_slow_to_send_takes_nobodys_place(start_function: conftest.StartFunction, database: stack.TestDatabase) -> None:
    """With one place only, half a request holds up no other."""
    process = start_function("orders", database.environment() | {"ORDERS_CONCURRENT_REQUESTS_MAX": "1"})
    body = json.dumps(ORDER).encode()
    head = f"POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", int(process.url.rpartition(":")[2])), timeout=30) as slow:
        slow.sendall(head + body[:-1])
        assert httpx.post(f"{process.url}/orders", json=ORDER, timeout=30).status_code == 201
        slow.sendall(body[-1:])
        assert slow.recv(12) == b"HTTP/1.1 201"


def test_beyond_a_rate_requests_are_told_when_to_come_again(start_function: conftest.StartFunction, database: stack.TestDatabase) -> None:
    """A burst goes through, then one in a thousand seconds; probes and metrics are not counted."""
    limits = {"ORDERS_REQUESTS_PER_SECOND_MAX": "0.001", "ORDERS_BURST_REQUESTS_MAX": "3"}
    process = start_function("orders", database.environment() | limits)
    with httpx.Client(base_url=process.url, timeout=30) as client:
        order = client.post("/orders", json=ORDER)
        others = [client.get(path).status_code for path in (order.headers["location"], "/openapi.json")]
        assert [201, 200, 200] == [order.status_code, *others]
        for answer in (client.post("/orders", json=ORDER), client.get(order.headers["location"])):
            assert_come_again(answer, "too_many_requests")
            assert 900 < int(answer.headers["retry-after"]) <= 1000
        assert_open_to_probes(process)
    assert [[1]] == database.run("SELECT count(*) FROM orders")


def test_events_beyond_a_functions_queue_come_again_and_none_is_lost(
    start_function: conftest.StartFunction, database: stack.TestDatabase
) -> None:
    """A transaction waits for the database, two events wait for it, and what comes then, an event or a batch, is told to come again."""
    env = (
        PATIENT
        | {"ORDER_POSTGRES_DSN": database.dsn("orderflow_order")}
        | {"QUEUE_EVENTS_MAX": "2", "GROUP_EVENTS_MAX": "1", "POSTGRES_CONNECTIONS": "1"}
    )
    process = start_function("order_on_assembled", env)
    events = [controls.assembled() for _ in range(6)]
    barrier = Barrier(database, "order_inbox_events")

    def post(request: dict[str, Any]) -> httpx.Response:
        return httpx.post(process.url, timeout=60, **request)

    with ThreadPoolExecutor(6) as source:
        with barrier.down():
            sent = [(events[0], source.submit(post, controls.binary(events[0])))]
            barrier.wait_for(1)
            sent += [(event, source.submit(post, controls.binary(event))) for event in events[1:]]
            stack.eventually(lambda: sum(answer.done() for _, answer in sent) == 3, "three of five to be told to come again")
            refused = [event for event, answer in sent if answer.done()]
            for answer in [answer.result() for _, answer in sent if answer.done()] + [post(controls.batch(refused))]:
                assert_come_again(answer, "overloaded")
            assert httpx.get(f"{process.url}/health", timeout=30).status_code == 200
        assert [{"outcome": "done"}] * 3 == [answer.result().json() for event, answer in sent if event not in refused]
    assert [[3]] == database.run("SELECT count(*) FROM order_inbox_events")
    assert ["done"] * 3 == [result["outcome"] for result in post(controls.batch(refused)).json()["results"]]
    there = database.run("SELECT event_id FROM order_inbox_events")
    assert sorted(event["event_id"] for event in events) == sorted(event_id for (event_id,) in there)
