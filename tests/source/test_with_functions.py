"""The source with real functions: batches in, rows in the inbox, letters in a real dead-letter topic."""

import json
import uuid
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from tests import controls, stack
from tests.conftest import MakeTopic, StartFunction
from tests.source import sinks
from tests.source.conftest import Group, StartSource


def test_L13_a_killed_function_and_a_poison_record(
    kafka_brokers: str,
    make_topic: MakeTopic,
    database: stack.TestDatabase,
    start_function: StartFunction,
    start_source: StartSource,
    new_sink: Callable[[], sinks.Sink],
) -> None:
    """order_on_assembled is killed while batches arrive: every event is in the inbox once; the poison record alone is a letter."""
    letters_topic = make_topic(config={"max.message.bytes": "2162688"})
    topic, name = make_topic(), f"group-{uuid.uuid4().hex[:12]}"
    env = database.environment() | {
        "KAFKA_BROKERS": kafka_brokers,
        "KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC": topic,
        "KAFKA_ORDER_ASSEMBLY_COMPLETED_DLQ_TOPIC": letters_topic,
        "KAFKA_ORDER_CONSUMER_GROUP_ID": name,
    }
    function = start_function("order_on_assembled", env | {"ORDER_POSTGRES_DSN": database.dsn("orderflow_order")})
    router = start_function("dlq_router", env)
    group = Group(kafka_brokers, topic, name, new_sink(), new_sink())
    payloads = [controls.assembled() for _ in range(2000)]
    poison = b'{"event_id": "cut'
    half = len(payloads) // 2
    plain = [json.dumps(payload).encode() for payload in payloads]
    group.produce(*plain[:half])
    source = start_source(group, size=100, flight=2, settings={"sink_urls": f"function={function.url},letters={router.url}"})
    stack.eventually(lambda: inbox(database) > 0, "the first events")
    function.kill()
    group.produce(poison, *plain[half:])
    stack.eventually(lambda: source.status()["state"] in {"paused", "probing"}, "the source to notice")
    function.start()
    group.wait_committed(len(payloads) + 1)
    assert inbox(database) == len(payloads)
    (letter,) = read(kafka_brokers, letters_topic)
    assert b64decode(letter["original_value"]) == poison
    assert (letter["original_topic"], letter["original_offset"], letter["attempts"] >= 1) == (topic, half, True)
    assert source.status()["state"] == "running"


def inbox(database: stack.TestDatabase) -> int:
    return int(database.run("SELECT count(*) FROM order_inbox_events")[0][0])


def read(brokers: str, topic: str) -> list[dict[str, Any]]:
    """Every letter of a dead-letter topic."""
    consumer = Consumer(stack.CLIENT | {"bootstrap.servers": brokers, "group.id": "letters", "enable.auto.commit": False})
    try:
        place = TopicPartition(topic, 0, 0)
        _, end = consumer.get_watermark_offsets(place, timeout=stack.PATIENCE_S)
        consumer.assign([place])
        found = consumer.consume(end, timeout=stack.PATIENCE_S)
        return [json.loads(message.value() or b"") for message in found]
    finally:
        consumer.close()
