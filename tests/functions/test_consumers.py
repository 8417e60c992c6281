"""Each consumer function: its effect, a duplicate, a refusal, an outage, a batch with one bad event, duplicates at once."""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from shared import events
from tests import controls, stack

Make = Callable[..., controls.Payload]


@dataclass(frozen=True)
class Consumer:
    """A consumer function: what it takes, the table of what it has handled, and how to count its effect on an order."""

    name: str
    make: Make
    inbox: str
    effects: str


_ASSEMBLED = "SELECT count(*) FROM orders WHERE id = :id AND status = 'assembled'"
_STAGED = "SELECT count(*) FROM order_outbox_events WHERE aggregate_id = :id"
_SENT = "SELECT count(*) FROM notification_inbox_events WHERE order_id = :id AND status = 'sent'"
CONSUMERS = [
    Consumer("order_on_assembled", controls.assembled, "order_inbox_events", _ASSEMBLED),
    Consumer("assembly_on_payment", controls.paid, "assembly_inbox_events", _STAGED),
    Consumer("notify", controls.paid, "notification_inbox_events", _SENT),
]
_ORDER = "INSERT INTO orders (id, user_id, status) VALUES (:id, 'u', 'paid') ON CONFLICT DO NOTHING"


@pytest.fixture(scope="module", params=CONSUMERS, ids=lambda consumer: consumer.name)
def consumer(request: pytest.FixtureRequest) -> Consumer:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def function(consumer: Consumer, serve: Any, module_database: stack.TestDatabase) -> stack.Process:
    """The function, with its own least-privileged role."""
    environment = module_database.environment()
    if consumer.name == "order_on_assembled":
        environment["ORDER_POSTGRES_DSN"] = module_database.dsn("orderflow_order")
    return serve(f"functions/{consumer.name}/main.py", environment)


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.PostgresServer]:
    """A server that this module may stop."""
    with stack.running(stack.PostgresServer, tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def make(consumer: Consumer, module_database: stack.TestDatabase) -> Make:
    """An event for the function; where it is about an order, the order is there."""

    def made(**changes: Any) -> controls.Payload:
        payload = consumer.make(**changes)
        if consumer.name == "order_on_assembled":
            module_database.run(_ORDER, id=payload["order_id"])
        return payload

    return made


@pytest.fixture
def effects(consumer: Consumer, module_database: stack.TestDatabase) -> Callable[..., int]:
    return lambda *payloads: sum(int(module_database.run(consumer.effects, id=payload["order_id"])[0][0]) for payload in payloads)


@pytest.mark.parametrize("deliver", [controls.binary, controls.structured, controls.plain])
def test_an_event_has_its_effect_once_however_often_it_comes(
    function: stack.Process, make: Make, effects: Any, client: httpx.Client, deliver: Any
) -> None:
    payload = make()
    answers = [client.post(function.url, **deliver(payload)) for _ in range(3)]
    assert [(200, "done"), (200, "duplicate"), (200, "duplicate")] == [(answer.status_code, answer.json()["outcome"]) for answer in answers]
    assert effects(payload) == 1


def test_a_refused_event_has_no_effect_and_names_the_fault(function: stack.Process, make: Make, effects: Any, client: httpx.Client) -> None:
    payload = make(user_id="")
    answer = client.post(function.url, **controls.binary(payload))
    assert (422, True) == (answer.status_code, answer.json()["detail"].startswith("user_id: "))
    assert effects(payload) == 0


def test_one_bad_event_of_a_batch_is_refused_alone(function: stack.Process, make: Make, effects: Any, client: httpx.Client) -> None:
    payloads = [make(), make(occurred_at="never"), make()]
    answer = client.post(function.url, **controls.batch(payloads))
    assert answer.status_code == 207
    assert [200, 422, 200] == [result["status"] for result in answer.json()["results"]]
    assert [1, 0, 1] == [effects(payload) for payload in payloads]


def test_duplicates_at_once_have_one_effect(function: stack.Process, make: Make, effects: Any) -> None:
    payload = make()

    async def all_at_once() -> list[int]:
        async with httpx.AsyncClient(timeout=30) as client:
            answers = await asyncio.gather(*(client.post(function.url, **controls.binary(payload)) for _ in range(10)))
            assert [answer.json()["outcome"] for answer in answers if answer.status_code == 200].count("done") == 1
            return [answer.status_code for answer in answers]

    # One that meets another at work is told to come again.
    assert set(asyncio.run(all_at_once())) <= {200, 409}
    assert effects(payload) == 1


def test_the_inbox_row_says_which_event_it_was(
    consumer: Consumer, function: stack.Process, make: Make, client: httpx.Client, module_database: stack.TestDatabase
) -> None:
    payload = make()
    client.post(function.url, **controls.binary(payload))
    [[event_type, order_id, occurred_at]] = module_database.run(
        f"SELECT event_type, order_id, occurred_at FROM {consumer.inbox} WHERE event_id = :id", id=payload["event_id"]
    )
    assert (payload["event_type"], payload["order_id"]) == (event_type, order_id)
    assert datetime.fromisoformat(payload["occurred_at"]) == occurred_at


def test_L13_L16_an_outage_of_the_database_is_answered_503_and_nothing_is_lost(
    consumer: Consumer, start_function: Any, own_postgres: stack.PostgresServer, client: httpx.Client
) -> None:
    server, database = own_postgres, own_postgres.new_database()
    function = start_function(consumer.name, database.environment() | {"ORDER_POSTGRES_DSN": database.dsn()})
    payload = consumer.make()
    assert client.post(function.url, **controls.binary(consumer.make())).status_code == 200
    server.stop()
    answer = client.post(function.url, **controls.binary(payload))
    assert (503, True) == (answer.status_code, int(answer.headers["retry-after"]) >= 1)
    assert (200, 503) == (client.get(f"{function.url}/health").status_code, client.get(f"{function.url}/ready").status_code)
    assert [503, 503] == [
        result["status"] for result in client.post(function.url, **controls.batch([payload, consumer.make()])).json()["results"]
    ]
    server.start()
    stack.eventually(lambda: client.post(function.url, **controls.binary(payload)).json().get("outcome") == "done", "the event done")
    assert client.post(function.url, **controls.binary(payload)).json() == {"outcome": "duplicate"}


def test_assembly_announces_an_order_as_assembled_when_its_time_is_over(
    serve: Any, module_database: stack.TestDatabase, client: httpx.Client
) -> None:
    function = serve("functions/assembly_on_payment/main.py", module_database.environment() | {"ASSEMBLY_DURATION": "1h"})
    payload = controls.paid()
    client.post(function.url, **controls.binary(payload, traceparent=controls.TRACEPARENT))
    [[event_id, topic, key, value, headers, waits_s, status]] = module_database.run(
        "SELECT event_id, topic, record_key, payload, headers, EXTRACT(EPOCH FROM due_at - clock_timestamp())::float8, status"
        " FROM order_outbox_events WHERE aggregate_id = :id",
        id=payload["order_id"],
    )
    event = json.loads(value)
    derived = str(uuid.uuid5(events.NAMESPACE, f"assembly-service/order.assembly.completed/0/{payload['event_id']}"))
    assert (derived, derived) == (event_id, event["event_id"])  # the paid event's id begins with no time
    assert ("order.assembly.completed", payload["order_id"].encode(), "pending") == (topic, key, status)
    assert (payload["order_id"], payload["user_id"]) == (event["order_id"], event["user_id"])
    assert 3500 < waits_s <= 3600
    assert 3400 < (datetime.fromisoformat(event["occurred_at"]) - datetime.now(UTC)).total_seconds() < 3700
    assert (payload["event_id"], "correlation-1", controls.TRACEPARENT) == (
        headers["ce_causationid"], headers["ce_correlationid"], headers["traceparent"],
    )  # fmt: skip


def test_an_unknown_or_already_assembled_order_is_no_error(serve: Any, module_database: stack.TestDatabase, client: httpx.Client) -> None:
    function = serve("functions/order_on_assembled/main.py", {"ORDER_POSTGRES_DSN": module_database.dsn("orderflow_order")})
    order_id = controls.new_id()
    outcomes = [client.post(function.url, **controls.binary(controls.assembled(order_id=order_id))).json()["outcome"] for _ in range(2)]
    assert outcomes == ["done", "done"]
