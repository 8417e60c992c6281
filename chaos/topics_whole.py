"""Every record of some topics, from the first to the one that is the last now, and how far a consumer group has come."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from ops import topics_admin
from shared import broker, errors
from shared.config import Settings

ANSWER_S = 10.0
SILENCE_S = 30.0  # how long a broker may give nothing of what it has
Ends = Mapping[tuple[str, int], tuple[int, int]]


class Message(NamedTuple):
    """A record as it lies there."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """The records, and of each partition its first offset and the one after its last."""

    messages: Sequence[Message]
    ends: Ends


def read(settings: Settings, names: Sequence[str]) -> Whole:
    """Every record of the topics `names`. Joins no group, commits nothing. Raises Unavailable when some of it cannot be read."""
    there = topics_admin.Admin(settings).partitions()
    consumer = _consumer(settings, "chaos-count")
    try:
        parts = [TopicPartition(name, number) for name in names for number in range(there[name][0])]
        ends = {(part.topic, part.partition): consumer.get_watermark_offsets(part, timeout=ANSWER_S) for part in parts}
        consumer.assign([TopicPartition(*place, first) for place, (first, _) in ends.items()])
        return Whole(_all(consumer, {place: end for place, (first, end) in ends.items() if first < end}), ends)
    except KafkaException as exc:
        raise errors.Unavailable(f"Kafka at {settings.kafka_brokers} does not answer: {exc.args[0].str()}", code="kafka_away") from exc
    finally:
        consumer.close()


def committed(settings: Settings, group: str, topic: str, ends: Ends) -> dict[int, int | None]:
    """The committed offset of each partition of `topic`; None where the group has none. Raises Unavailable."""
    consumer = _consumer(settings, group)
    try:
        wanted = [TopicPartition(name, number) for name, number in ends if name == topic]
        return {part.partition: part.offset if part.offset >= 0 else None for part in consumer.committed(wanted, timeout=ANSWER_S)}
    except KafkaException as exc:
        raise errors.Unavailable(f"Kafka at {settings.kafka_brokers} does not answer: {exc.args[0].str()}", code="kafka_away") from exc
    finally:
        consumer.close()


def _consumer(settings: Settings, group: str) -> Consumer:
    return Consumer(broker.client(settings, "chaos-count") | {"group.id": group, "enable.auto.commit": False})


def _all(consumer: Consumer, ends: dict[tuple[str, int], int]) -> list[Message]:
    """The messages before the end of each partition; what has come since is left out."""
    left = set(ends)
    found: list[Message] = []
    heard = time.monotonic()
    while left:
        for message in consumer.consume(1000, timeout=0.5):
            fault = message.error()
            if fault is not None and not fault.retriable():
                raise KafkaException(fault)
            if fault is None:
                heard = time.monotonic()
                one = _message(message)
                place = one.topic, one.partition
                found += [one] * (one.offset < ends.get(place, 0))
                if one.offset >= ends.get(place, 0) - 1:
                    left.discard(place)
        if left and time.monotonic() > heard + SILENCE_S:
            raise errors.Unavailable(f"Kafka has given nothing for {SILENCE_S:.0f} s; left are {sorted(left)}", code="kafka_away")
    return found


def _message(message: Any) -> Message:
    headers = tuple((name, value.encode() if isinstance(value, str) else value) for name, value in message.headers() or ())
    return Message(message.topic(), message.partition(), message.offset(), message.key(), message.value(), headers)
