"""The relay as a process, rows for it, and what came out on a topic."""

import contextlib
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from ops import child
from shared import config, database
from tests import conftest, stack

COMMAND = [sys.executable, "-m", "connectors.outbox_relay"]
# Looks more often than in production. What a record may take stays as there: a slow broker must not make a relay publish twice.
QUICK = {"RELAY_SWEEP_INTERVAL": "500ms", "LOG_FORMAT": "text", "RELAY_WORKERS": "2"}
IMPATIENT = {"RELAY_DELIVERY_TIMEOUT": "2s"}


class StartRelay(Protocol):
    def __call__(self, made: stack.TestDatabase, brokers: str, env: Mapping[str, str] | None = None) -> stack.Process: ...


@dataclass
class Outbox:
    """A database's outbox, seen by its owner."""

    made: stack.TestDatabase

    def add(self, topic: str, key: bytes | None = None, value: bytes = b"{}", *, due_in_s: float = 0, headers: str = '{"a": "b"}') -> str:
        """Stage one row and commit; its event id."""
        event_id = str(uuid.uuid4())
        self.made.run(
            """INSERT INTO order_outbox_events
                 (event_id, event_type, occurred_at, aggregate_id, payload, topic, record_key, headers, due_at, producer)
               VALUES (:id, 'test', now(), 'o', :value::bytea, :topic, :key::bytea,
                       :headers::jsonb || jsonb_build_object('ce_id', :id::text),
                       clock_timestamp() + :due::float8 * interval '1 s', 'test')""",
            id=event_id, value=value, topic=topic, key=key, headers=headers, due=due_in_s,
        )  # fmt: skip
        return event_id

    def add_many(self, topic: str, keys: int, of_each: int = 1) -> None:
        """Stage `of_each` rows for each of `keys` keys in one transaction, interleaved; a row's value is its place in its key."""
        self.made.run(
            """INSERT INTO order_outbox_events
                 (event_id, event_type, occurred_at, aggregate_id, payload, topic, record_key, headers, producer)
               SELECT k || '/' || n, 'test', now(), 'o', convert_to(n::text, 'UTF8'), :topic, convert_to('key-' || k, 'UTF8'),
                      jsonb_build_object('ce_id', k || '/' || n), 'test'
               FROM generate_series(1, :of_each::int) AS n, generate_series(1, :keys::int) AS k""",
            topic=topic, keys=keys, of_each=of_each,
        )  # fmt: skip

    def one(self, event_id: str) -> dict[str, Any]:
        """A row's status, attempts, last_error and whether it was sent no earlier than due."""
        sql = "SELECT status, attempts, last_error, sent_at >= due_at FROM order_outbox_events WHERE event_id = :id"
        return dict(zip(("status", "attempts", "last_error", "sent_when_due"), self.made.run(sql, id=event_id)[0], strict=True))

    def statuses(self) -> dict[str, int]:
        """How many rows there are of each status."""
        return {row[0]: row[1] for row in self.made.run("SELECT status, count(*) FROM order_outbox_events GROUP BY status")}

    def until(self, event_id: str, status: str = "sent") -> dict[str, Any]:
        """Wait for a row to have `status`; what it is then."""
        return stack.eventually(lambda: self.one(event_id)["status"] == status and self.one(event_id), f"{event_id} to be {status}")

    def until_sent(self, count: int) -> None:
        """Wait for all rows, `count` of them, to be sent."""
        stack.eventually(lambda: self.statuses() == {"sent": count}, f"{count} rows to be sent")

    def claimed(self, event_id: str) -> bool:
        """Whether a relay holds the row."""
        return not self.made.run("SELECT 1 FROM order_outbox_events WHERE event_id = :id FOR UPDATE SKIP LOCKED", id=event_id)

    @contextlib.contextmanager
    def transaction(self, *statements: str) -> Iterator[database.Transaction]:
        """A transaction of another process that stays open until the end of the block, then commits."""
        settings = config.Settings(statement_timeout=50, delivery_deadline=60)
        other = database.Database(self.made.dsn(), settings=settings, application="other")
        begun, end = threading.Event(), threading.Event()
        held: list[database.Transaction] = []

        def work(tx: database.Transaction) -> None:
            for statement in statements:
                tx.run(statement)
            held.append(tx)
            begun.set()
            end.wait(60)

        thread = threading.Thread(target=other.transact, args=(work,))
        thread.start()
        try:
            assert begun.wait(stack.PATIENCE_S)
            yield held[0]
        finally:
            end.set()
            thread.join()
            other.close()

    def until_in_flight(self, event_id: str) -> None:
        """Wait for a relay to hold the row and to be past its claim."""
        stack.eventually(lambda: self.claimed(event_id) and self.relay_backends(), "the row to be claimed")

    def relay_backends(self) -> list[int]:
        """The server's processes that hold a relay's open transactions and wait for the relay to go on."""
        relay = database.Database(self.made.dsn("orderflow_relay"), settings=config.Settings(), application="test")
        sql = """SELECT pid FROM pg_stat_activity WHERE application_name = 'orderflow-relay' AND state = 'idle in transaction'
                 AND datname = current_database()"""
        try:
            return [row[0] for row in relay.transact(lambda tx: tx.run(sql))]
        finally:
            relay.close()


@pytest.fixture
def outbox(database: stack.TestDatabase) -> Outbox:
    """The outbox of the test's database."""
    return Outbox(database)


@pytest.fixture
def start_relay(start_process: conftest.StartProcess) -> StartRelay:
    """start_relay(database, brokers, env=None) -> a relay that is ready."""

    def start(made: stack.TestDatabase, brokers: str, env: Mapping[str, str] | None = None) -> stack.Process:
        more = {"RELAY_CONTROL_PORT": str(child.free_ports(1)[0])} | dict(env or {})
        url = f"http://127.0.0.1:{more['RELAY_CONTROL_PORT']}"
        process = start_process(COMMAND, QUICK | made.environment() | {"KAFKA_BROKERS": brokers} | more, url)
        process.wait_ready()
        return process

    return start


def records(brokers: str, topic: str, count: int, within_s: float = stack.PATIENCE_S) -> list[Message]:
    """The first `count` records of a topic, or all that are there when it has more by then, in order within each partition."""
    consumer = Consumer(stack.CLIENT | {"bootstrap.servers": brokers, "group.id": "reader", "fetch.wait.max.ms": 20})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, n, 0) for n in partitions])
        found: list[Message] = []

        def read() -> bool:
            found.extend(message for message in consumer.consume(1000, 0.2) if message.error() is None)
            if len(found) < count:
                return False
            ends = sum(consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] for n in partitions)
            return len(found) >= ends

        stack.eventually(read, f"{count} records on {topic}", within_s)
        return found
    finally:
        consumer.close()


def ids(found: list[Message]) -> list[str]:
    """The event ids of records."""
    values = [dict(message.headers() or [])["ce_id"] for message in found]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def by_key(found: list[Message]) -> dict[bytes | None, list[bytes]]:
    """The values of each key's records in order; a record that follows itself, published again, counts once."""
    lines: dict[bytes | None, list[bytes]] = {}
    for message in found:
        line = lines.setdefault(message.key(), [])
        value = message.value() or b""
        if line[-1:] != [value]:
            line.append(value)
    return lines
