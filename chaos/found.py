"""What there is after a run, read from PostgreSQL and Kafka themselves once everything has drained: plain data, for `chaos.checker`."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos import topics_whole
from chaos.topics_whole import Message
from shared import config, database, errors, letters, topics
from shared.database import Database


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer group: what it reads, where its inbox is, where its letters go."""

    group: str
    topic: str
    inbox: str
    dead_letter_topic: str
    leased: bool = False  # it sends messages, and its inbox says when


@dataclass(frozen=True, slots=True)
class Order:
    """An order's row; `items` are product and quantity."""

    id: str
    user_id: str
    status: str
    items: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class InboxRow:
    """A row of an inbox. Times are seconds since 1970 by the database's clock. `status` and `sent_at` are those of a leased one."""

    event_id: str
    event_type: str
    order_id: str
    at: float
    status: str = "sent"
    sent_at: float | None = None


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A row of the outbox. `turn` is its due time and its sequence: what rows of one key are published by."""

    event_id: str
    event_type: str
    order_id: str
    topic: str
    value_sha256: str
    status: str
    last_error: str | None
    key: str | None
    turn: tuple[float, int]


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a source topic. What it tells of its event is empty where that cannot be read."""

    topic: str
    partition: int
    offset: int
    key: str | None
    value_sha256: str | None
    headers: tuple[tuple[str, str | None], ...] = ()
    event_id: str = ""
    event_type: str = ""
    order_id: str = ""
    user_id: str = ""
    amount: int | None = None

    @property
    def place(self) -> str:
        """topic/partition/offset."""
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """A record of a dead-letter topic: which record of a source topic it is about, and that one's bytes."""

    letter_id: str
    consumer: str
    topic: str
    partition: int | None
    offset: int | None
    key: str | None
    value_sha256: str | None
    code: str
    written: str  # dead-letter topic/partition/offset
    dead_letter_topic: str

    @property
    def place(self) -> str:
        """topic/partition/offset of the record."""
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a group has come in a partition; `committed` is None where it never committed."""

    group: str
    topic: str
    partition: int
    committed: int | None
    first: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All of it. `topics` gives the topic of each event type, `index` the consumer of each letter, `parked` consumer and event id."""

    consumers: Sequence[Consumer]
    topics: Mapping[str, str]
    item_price_kopecks: int
    orders: Sequence[Order] = ()
    inboxes: Mapping[str, Sequence[InboxRow]] = field(default_factory=dict)
    outbox: Sequence[OutboxRow] = ()
    records: Sequence[Record] = ()
    letters: Sequence[Letter] = ()
    no_letters: Sequence[str] = ()  # where on dead-letter topics something else lies
    index: Mapping[str, str] = field(default_factory=dict)
    parked: Sequence[tuple[str, str]] = ()
    positions: Sequence[Position] = ()


_ORDERS = """
SELECT id, user_id, status, json_agg(json_build_array(product_id, quantity) ORDER BY product_id) FILTER (WHERE order_id IS NOT NULL)
FROM orders LEFT JOIN order_items ON order_id = id GROUP BY id
"""
_INBOX = "SELECT event_id, event_type, order_id, EXTRACT(EPOCH FROM received_at)::float8{more} FROM {inbox}"
_LEASED = ", status, EXTRACT(EPOCH FROM processed_at)::float8"
_OUTBOX = """
SELECT event_id, event_type, aggregate_id, topic, encode(sha256(payload), 'hex'), status, last_error,
       record_key, EXTRACT(EPOCH FROM due_at)::float8, seq
FROM order_outbox_events
"""


def read(settings: config.Settings) -> Found:
    """Everything of the system that `settings` reach, whose index of letters is caught up first. Raises Unavailable."""
    from ops.dlq import index  # it knows the whole of `orderflow dlq`

    catalogue = topics.catalogue(settings)
    consumers = [Consumer(of.group, topic.name, of.inbox, of.dead_letter_topic, leased=of.leased) for topic, of in catalogue.consumers()]
    sources = [topic for topic in catalogue.topics if topic.consumers]
    base = Database(settings.postgres_dsn("order"), settings=settings.model_copy(update={"statement_timeout": 600.0}), application="chaos")
    try:
        index.sync(settings, base)
        kafka = topics_whole.read(settings, [topic.name for topic in (*sources, *catalogue.dead_letter_topics)])
        dead = {topic.name for topic in catalogue.dead_letter_topics}
        written = [_letter(message) for message in kafka.messages if message.topic in dead]
        return Found(
            consumers=consumers,
            topics={topic.name: settings.topic(topic.name) for topic in topics.read().topics if topic.consumers},
            item_price_kopecks=settings.order_item_price_kopecks,
            records=[_record(message) for message in kafka.messages if message.topic not in dead],
            letters=[letter for letter in written if isinstance(letter, Letter)],
            no_letters=[letter for letter in written if isinstance(letter, str)],
            positions=[
                Position(of.group, of.topic, number, committed, *kafka.ends[of.topic, number])
                for of in consumers
                for (number, committed) in topics_whole.committed(settings, of.group, of.topic, kafka.ends).items()
            ],
            **base.transact(lambda tx: _tables(tx, consumers)),
        )
    finally:
        base.close()


def _tables(tx: database.Transaction, consumers: Sequence[Consumer]) -> dict[str, Any]:
    leased = {of.inbox: of.leased for of in consumers}
    rows = {inbox: tx.run(_INBOX.format(inbox=inbox, more=_LEASED if leased[inbox] else "")) for inbox in leased}
    return {
        "orders": [_order(*row) for row in tx.run(_ORDERS)],
        "inboxes": {inbox: [InboxRow(*row) for row in of] for inbox, of in rows.items()},
        "outbox": [_outbox_row(*row) for row in tx.run(_OUTBOX)],
        "index": {row[0]: row[1] for row in tx.run("SELECT letter_id, consumer FROM dlq_letters")},
        "parked": [(consumer, event_id) for consumer, event_id in tx.run("SELECT consumer, event_id FROM parked_events")],
    }


def _order(order_id: str, user_id: str, status: str, items: list[list[Any]] | None) -> Order:
    return Order(order_id, user_id, status, tuple((product, quantity) for product, quantity in items or ()))


def _outbox_row(*row: Any) -> OutboxRow:
    *plain, key, due_at, seq = row
    return OutboxRow(*plain, text(key), (due_at, seq))  # type: ignore[call-arg]  # as many as the statement has columns


def text(key: bytes | None) -> str | None:
    """A key or a header's value as text, whatever is in it."""
    return None if key is None else bytes(key).decode("utf-8", "backslashreplace")


def sha256(value: bytes | None) -> str | None:
    """The hash of a value, hexadecimal; None for a tombstone."""
    return None if value is None else hashlib.sha256(value).hexdigest()


def _record(message: Message) -> Record:
    told = _told(message.value)
    amount = told.get("amount")
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=text(message.key),
        value_sha256=sha256(message.value),
        headers=tuple((name, text(value)) for name, value in message.headers),
        amount=amount if isinstance(amount, int) else None,
        **{name: str(told.get(name, "")) for name in ("event_id", "event_type", "order_id", "user_id")},
    )


def _told(value: bytes | None) -> dict[str, Any]:
    """The payload, of a structured CloudEvent its data; empty where there is none."""
    try:
        told = json.loads(value or b"")
    except (ValueError, RecursionError):
        return {}
    if isinstance(told, dict) and isinstance(told.get("data"), dict):
        told = told["data"]
    return told if isinstance(told, dict) else {}


def _letter(message: Message) -> Letter | str:
    where = f"{message.topic}/{message.partition}/{message.offset}"
    try:
        entry = letters.read(message.value or b"")
        told = json.loads(message.value or b"")
        key, value = (None if told[name] is None else base64.b64decode(told[name]) for name in ("original_key", "original_value"))
    except (errors.Refused, ValueError, KeyError, TypeError) as exc:
        return f"{where}: {exc}"
    return Letter(
        entry.letter_id, entry.consumer, entry.topic, entry.partition, entry.message_offset, text(key), sha256(value), entry.error_code,
        where, message.topic,
    )  # fmt: skip
