"""dlq_router dies at each step of a letter, and the record is handed over again; a function dies while it parks an event behind one.

Whichever store has it, a record has one letter: one id on the topic, one row in the outbox, one row in the index.
"""

import base64
import itertools
import json
from collections import Counter
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from ops.dlq import index
from shared import config, database
from tests import controls, stack
from tests.conftest import MakeTopic
from tests.functions.test_dlq_router import FAILED_RECORD, LETTER_LIMIT
from tests.kills import mortal, points, topics
from tests.kills.conftest import ServeMortal
from tests.kills.mortal import Mortal
from tests.kills.points import Point

PAID, ASSEMBLED = "order.payment.completed", "order.assembly.completed"
PARKS, PLAIN = f"/assembly-service/{PAID}", f"/order-service/{ASSEMBLED}"
OFFSETS = itertools.count()
# What is there after a death: records of the letter on its topic, and rows of the index.
LEFT = {"none": (0, 0), "written": (1, 0), "indexed": (1, 1)}


@pytest.fixture(scope="module")
def env(module_database: stack.TestDatabase, kafka_brokers: str, make_topic: MakeTopic) -> dict[str, str]:
    """Dead-letter topics of this module's own; assembly-service parks."""
    return module_database.environment() | {
        "KAFKA_BROKERS": kafka_brokers,
        "KAFKA_ORDER_PAYMENT_COMPLETED_DLQ_TOPIC": make_topic(1, LETTER_LIMIT),
        "KAFKA_ORDER_ASSEMBLY_COMPLETED_DLQ_TOPIC": make_topic(1, LETTER_LIMIT),
        "ASSEMBLY_PARKING": "true",
    }


@pytest.fixture(scope="module")
def router(serve_mortal: ServeMortal, env: dict[str, str]) -> Mortal:
    return serve_mortal("router,router of who parks", "dlq_router", env)


@pytest.fixture(scope="module")
def router_without_kafka(serve_mortal: ServeMortal, env: dict[str, str], unused_address: str) -> Mortal:
    return serve_mortal("router without Kafka", "dlq_router", env | {"KAFKA_BROKERS": unused_address, "DLQ_PRODUCER_TIMEOUT": "500ms"})


class Record:
    """A record that failed, and what became of it."""

    def __init__(self, env: dict[str, str], path: str, database: stack.TestDatabase) -> None:
        self.order_id = controls.new_id("order-")
        value = json.dumps(controls.paid(order_id=self.order_id, amount=-1)).encode()
        self._told = {
            "topic": path.rpartition("/")[2], "partition": 0, "offset": next(OFFSETS), "timestamp": 1_700_000_000_000,
            "key": base64.b64encode(b"k").decode(), "value": base64.b64encode(value).decode(), "headers": [], "status": 422,
            "code": "invalid_event", "detail": "amount", "reason": "refused", "attempts": 1,
        }  # fmt: skip
        self._path, self._env, self._database = path, env, database

    def hand_over(self, router: Mortal) -> httpx.Response | None:
        """To dlq_router, as the source does."""
        return mortal.attempt(router.url + self._path, content=json.dumps(self._told), headers={"content-type": FAILED_RECORD})

    def written(self) -> Counter[str]:
        """How often each of its letters is on the topic, by their ids."""
        setting = "KAFKA_ORDER_PAYMENT_COMPLETED_DLQ_TOPIC" if self._path == PARKS else "KAFKA_ORDER_ASSEMBLY_COMPLETED_DLQ_TOPIC"
        found = [json.loads(message.value() or b"") for message in topics.records(self._env["KAFKA_BROKERS"], self._env[setting])]
        return Counter(letter["letter_id"] for letter in found if letter["order_id"] == self.order_id)

    def indexed(self) -> list[str]:
        """The index's rows of it, by their ids."""
        found = self._database.run("SELECT letter_id FROM dlq_letters WHERE order_id = :id", id=self.order_id)
        return [row[0] for row in found]

    def staged(self) -> list[str]:
        """The outbox's rows of it, by their ids."""
        found = self._database.run("SELECT event_id FROM order_outbox_events WHERE aggregate_id = :id", id=self.order_id)
        return [row[0] for row in found]


def sync(env: dict[str, str], made: stack.TestDatabase) -> None:
    """Read the dead-letter topics on, as each `orderflow dlq` command does first."""
    names = {name: topic for name, topic in env.items() if name.startswith("KAFKA_ORDER_")}
    dsns = {"order": SecretStr(made.dsn())}
    settings = config.Settings(kafka_brokers=env["KAFKA_BROKERS"], postgres_dsns=dsns, overrides=names)
    connected = database.Database(made.dsn(), settings=settings, application="test")
    try:
        index.sync(settings, connected)
    finally:
        connected.close()


def letter_of(answer: httpx.Response | None, store: str = "kafka") -> str:
    assert answer is not None
    assert (answer.status_code, answer.json()["store"]) == (200, store), answer.text
    return str(answer.json()["letter_id"])


@pytest.mark.parametrize("point", points.of("router"), ids=points.id_of)
def test_a_record_has_one_letter_however_its_router_died(
    router: Mortal, env: dict[str, str], module_database: stack.TestDatabase, point: Point
) -> None:
    record = Record(env, PLAIN, module_database)
    if point.step.aside:
        router.fresh()
    router.order(point)
    answer = record.hand_over(router)
    router.died(point)
    assert answer is None or point.may_have_answered
    before = record.written()
    assert (before.total(), len(record.indexed())) in [LEFT[left] for left in point.left.split(" or ")]

    router.again()
    again = answer or record.hand_over(router)  # the source commits what was answered, and comes again with the rest
    letter_id = letter_of(again)
    assert record.written() == {letter_id: before[letter_id] + (answer is None)}
    sync(env, module_database)
    assert record.indexed() == [letter_id]


@pytest.mark.parametrize("point", points.of("router of who parks"), ids=points.id_of)
def test_where_a_consumer_parks_no_letter_is_answered_that_the_index_has_not(
    router: Mortal, env: dict[str, str], module_database: stack.TestDatabase, point: Point
) -> None:
    record = Record(env, PARKS, module_database)
    router.order(point)
    assert record.hand_over(router) is None
    router.died(point)
    assert len(record.indexed()) == {"written": 0, "indexed": 1}[point.left]
    router.again()
    letter_id = letter_of(record.hand_over(router))
    assert (record.written(), record.indexed()) == ({letter_id: 2}, [letter_id])


@pytest.mark.parametrize("point", points.of("router without Kafka"), ids=points.id_of)
def test_a_letter_is_once_in_the_outbox_while_kafka_is_away(
    router_without_kafka: Mortal, env: dict[str, str], module_database: stack.TestDatabase, point: Point
) -> None:
    record = Record(env, PLAIN, module_database)
    if point.step.aside:
        router_without_kafka.fresh()
    router_without_kafka.order(point)
    answer = record.hand_over(router_without_kafka)
    router_without_kafka.died(point)
    assert answer is None or point.may_have_answered
    assert len(record.staged()) == {"none": 0, "staged": 1}[point.left]
    router_without_kafka.again()
    letter_id = letter_of(record.hand_over(router_without_kafka), "outbox")
    assert record.staged() == [letter_id]


@pytest.mark.parametrize("point", points.drains("router"), ids=points.id_of)
def test_a_letter_is_safe_and_answered_before_the_end(
    router: Mortal, env: dict[str, str], module_database: stack.TestDatabase, point: Point
) -> None:
    record = Record(env, PLAIN, module_database)
    router.order(point, "term")
    answer = record.hand_over(router)
    router.drained(point)
    router.again()
    letter_id = letter_of(answer)
    assert (record.written(), record.indexed()) == ({letter_id: 1}, [letter_id])


@pytest.mark.parametrize("point", points.drains("router without Kafka"), ids=points.id_of)
def test_a_letter_is_staged_and_answered_before_the_end(
    router_without_kafka: Mortal, env: dict[str, str], module_database: stack.TestDatabase, point: Point
) -> None:
    record = Record(env, PLAIN, module_database)
    router_without_kafka.order(point, "term")
    answer = record.hand_over(router_without_kafka)
    router_without_kafka.drained(point)
    router_without_kafka.again()
    assert record.staged() == [letter_of(answer, "outbox")]


@pytest.fixture(scope="module")
def assembly(serve_mortal: ServeMortal, env: dict[str, str]) -> Mortal:
    return serve_mortal("parking", "assembly_on_payment", env)


@pytest.mark.parametrize("point", points.of("parking"), ids=points.id_of)
def test_an_event_is_parked_once_behind_its_orders_letter(
    assembly: Mortal, router: Mortal, env: dict[str, str], module_database: stack.TestDatabase, point: Point
) -> None:
    record = Record(env, PARKS, module_database)
    letter_of(record.hand_over(router))
    payload = controls.paid(order_id=record.order_id)

    def there() -> tuple[Any, ...]:
        counts = """
        SELECT (SELECT count(*) FROM parked_events WHERE event_id = :id AND state = 'parked'),
               (SELECT count(*) FROM assembly_inbox_events WHERE event_id = :id),
               (SELECT count(*) FROM order_outbox_events WHERE aggregate_id = :order)
        """
        return tuple(module_database.run(counts, id=payload["event_id"], order=record.order_id)[0])

    assembly.order(point)
    assert mortal.attempt(assembly.url, **controls.binary(payload)) is None
    assembly.died(point)
    assert there() == {"again": (0, 0, 0), "parked": (1, 0, 0)}[point.left]
    assembly.again()
    again = mortal.attempt(assembly.url, **controls.binary(payload))
    assert again is not None
    assert again.json() == {"outcome": "parked"}
    assert there() == (1, 0, 0)


def test_the_lists_have_every_step_of_a_letter(
    serve_mortal: ServeMortal, env: dict[str, str], module_database: stack.TestDatabase, unused_address: str
) -> None:
    away = {"KAFKA_BROKERS": unused_address, "DLQ_PRODUCER_TIMEOUT": "500ms"}
    for table, path, more in (("router", PLAIN, {}), ("router of who parks", PARKS, {}), ("router without Kafka", PLAIN, away)):
        traced = serve_mortal(",".join(sorted({"router", table})), "dlq_router", env | more, traced=True)
        letter_of(Record(env, path, module_database).hand_over(traced), "outbox" if more else "kafka")
        steps = points.TABLES[table]
        stack.eventually(lambda: traced.has_passed(steps), f"every step of {table}")  # noqa: B023  it is asked at once
        in_order = [step for step in steps if not step.aside]
        assert mortal.order_of(traced.trace(), in_order) == [step.name for step in in_order]
        assert mortal.uncovered(traced.trace()) == []


def test_the_list_has_every_step_of_parking(
    serve_mortal: ServeMortal, router: Mortal, env: dict[str, str], module_database: stack.TestDatabase
) -> None:
    traced = serve_mortal("parking", "assembly_on_payment", env, traced=True)
    record = Record(env, PARKS, module_database)
    letter_of(record.hand_over(router))
    assert mortal.attempt(traced.url, **controls.binary(controls.paid(order_id=record.order_id))) is not None
    steps = points.TABLES["parking"]
    assert traced.has_passed(steps)
    assert mortal.order_of(traced.trace(), steps) == [step.name for step in steps]
    assert mortal.uncovered(traced.trace()) == []
