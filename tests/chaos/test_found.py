"""What a run left is read whole from PostgreSQL and Kafka: every row, every record byte for byte, every letter, every offset."""

import base64
import hashlib
import json
import uuid
from datetime import UTC, datetime

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from pydantic import SecretStr

from chaos import found
from chaos.found import Letter, Order, Position
from functions.dlq_router import letter
from functions.dlq_router.failed import Failed
from shared import config, events, inbox, outbox
from shared.database import Database
from tests import stack
from tests.conftest import MakeTopic

PAID, ASSEMBLED = "order.payment.completed", "order.assembly.completed"
TOPICS = {
    "KAFKA_ORDER_PAYMENT_COMPLETED_TOPIC": 2,
    "KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC": 1,
    "KAFKA_ORDER_PAYMENT_COMPLETED_DLQ_TOPIC": 1,
    "KAFKA_ORDER_ASSEMBLY_COMPLETED_DLQ_TOPIC": 1,
    "KAFKA_NOTIFICATION_DLQ_TOPIC": 1,
}


@pytest.fixture
def reached(database: stack.TestDatabase, kafka_brokers: str, make_topic: MakeTopic) -> config.Settings:
    """Settings for a database and topics that no other test has."""
    own = uuid.uuid4().hex
    names = {setting: make_topic(partitions, name=f"{own}.{setting.lower()}") for setting, partitions in TOPICS.items()}
    groups = {"KAFKA_ASSEMBLY_CONSUMER_GROUP_ID": f"assembly-{own}"}
    return config.Settings().model_copy(
        update={
            "kafka_brokers": kafka_brokers,
            "postgres_dsns": {"order": SecretStr(database.dsn())},
            "overrides": names | groups,
        }
    )


def _sha256(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


def _paid() -> events.OrderPaid:
    return events.OrderPaid(
        event_id="paid-1",
        occurred_at=datetime(2026, 11, 25, tzinfo=UTC),
        order_id="order-1",
        user_id="user-1",
        amount=700,
        payment_method="card",
    )


def test_rows_are_read_as_they_are(reached: config.Settings, database: stack.TestDatabase) -> None:
    database.run("INSERT INTO orders (id, user_id, status) VALUES ('order-1', 'user-1', 'paid'), ('order-2', 'user-2', 'assembled')")
    database.run("INSERT INTO order_items VALUES ('order-1', 'b', 2), ('order-1', 'a', 3)")
    with_work = Database(database.dsn(), settings=reached, application="test")
    with_work.transact(lambda tx: inbox.claim(tx, "assembly_inbox_events", [_paid()]))
    with_work.transact(lambda tx: outbox.stage(tx, [_paid()], producer="orders", settings=reached))
    with_work.close()
    database.run(
        "INSERT INTO notification_inbox_events (event_id, event_type, occurred_at, order_id, status, received_at, processed_at)"
        " VALUES ('e-1', 't', now(), 'order-1', 'sent', to_timestamp(1000.25), to_timestamp(1001.5)),"
        " ('e-2', 't', now(), 'order-1', 'claimed', to_timestamp(1000), NULL)"
    )
    database.run(
        "INSERT INTO parked_events (consumer, letter_key, event_id, event_type, order_id, occurred_at, payload)"
        " VALUES ('order-service', 'k', 'e-3', 't', 'o', now(), '')"
    )
    seen = found.read(reached)
    assert {Order("order-1", "user-1", "paid", (("a", 3), ("b", 2))), Order("order-2", "user-2", "assembled", ())} == set(seen.orders)
    assert {"assembly_inbox_events", "notification_inbox_events", "order_inbox_events"} == seen.inboxes.keys()
    [claimed] = seen.inboxes["assembly_inbox_events"]
    assert ("paid-1", PAID, "order-1", "sent", None) == (
        claimed.event_id, claimed.event_type, claimed.order_id, claimed.status, claimed.sent_at,
    )  # fmt: skip
    told = {row.event_id: (row.at, row.status, row.sent_at) for row in seen.inboxes["notification_inbox_events"]}
    assert {"e-1": (1000.25, "sent", 1001.5), "e-2": (1000.0, "claimed", None)} == told
    [row] = seen.outbox
    assert ("paid-1", PAID, "order-1", reached.topic(PAID), "order-1", "pending", None, _sha256(_paid().value())) == (
        row.event_id, row.event_type, row.order_id, row.topic, row.key, row.status, row.last_error, row.value_sha256,
    )  # fmt: skip
    assert [("order-service", "e-3")] == seen.parked


def test_records_letters_and_offsets_are_read_as_they_are(reached: config.Settings) -> None:
    topic, dead = reached.topic(PAID), reached.overrides["KAFKA_NOTIFICATION_DLQ_TOPIC"]
    paid = _paid()
    structured = json.dumps({"specversion": "1.0", "id": "x", "data": json.loads(paid.value())}).encode()
    producer = Producer(stack.CLIENT | {"bootstrap.servers": reached.kafka_brokers})
    written = (
        (0, b"order-1", paid.value(), list(paid.headers().items())),
        (0, b"order-1", structured, []),
        (0, b"\xff", None, [("h", None)]),
        (1, None, b"[1]", []),
    )
    for partition, key, value, headers in written:
        producer.produce(topic, value, key=key, partition=partition, headers=headers)
    failed = Failed(topic, b"\xfe", key=b"\xff", partition=0, offset=2, code="unreadable", exact=True)
    made = letter.write(failed, "notification-payment", now=datetime.now(UTC), bytes_max=100_000)
    for value in (made.value, b"no letter"):
        producer.produce(dead, value, key=made.key)
    assert 0 == producer.flush(30)
    group = reached.overrides["KAFKA_ASSEMBLY_CONSUMER_GROUP_ID"]
    reader = Consumer(stack.CLIENT | {"bootstrap.servers": reached.kafka_brokers, "group.id": group, "enable.auto.commit": False})
    reader.commit(offsets=[TopicPartition(topic, 0, 2)], asynchronous=False)
    reader.close()

    seen = found.read(reached)
    records = sorted(seen.records, key=lambda record: (record.partition, record.offset))
    assert [(0, 0, "order-1"), (0, 1, "order-1"), (0, 2, "\\xff"), (1, 0, None)] == [(of.partition, of.offset, of.key) for of in records]
    assert [_sha256(paid.value()), _sha256(structured), None, _sha256(b"[1]")] == [of.value_sha256 for of in records]
    assert [("paid-1", PAID, "order-1", "user-1", 700)] * 2 == [
        (of.event_id, of.event_type, of.order_id, of.user_id, of.amount) for of in records[:2]
    ]
    assert tuple(paid.headers().items()) == records[0].headers
    assert (("h", None),) == records[2].headers
    assert "" == records[3].event_id
    where = f"{dead}/0/0"
    assert [
        Letter(made.letter_id, "notification-payment", topic, 0, 2, "\\xff", _sha256(b"\xfe"), "unreadable", where, dead)
    ] == seen.letters  # fmt: skip
    assert base64.b64encode(b"\xfe").decode() in made.value.decode()
    assert [f"{dead}/0/1"] == [place.partition(":")[0] for place in seen.no_letters]
    assert {made.letter_id: "notification-payment"} == seen.index
    positions = {(of.group, of.partition): of for of in seen.positions if of.topic == topic}
    assert Position(group, topic, 0, 2, 0, 3) == positions[group, 0]
    assert Position("notification-payment", topic, 1, None, 0, 1) == positions["notification-payment", 1]
    assert [reached.topic(PAID), reached.topic(ASSEMBLED)] == [seen.topics[PAID], seen.topics[ASSEMBLED]]
