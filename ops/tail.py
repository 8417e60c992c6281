"""Records that arrive at topics from now on, for those who only look: no consumer group is joined and nothing is committed."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from shared import broker, errors
from shared.config import Settings

_ANSWER_S = 10.0


class Tail:
    """The records of some topics since it was made, as far as they were read."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.records: list[Message] = []

    def read(self, within_s: float = 0.0) -> None:
        """Take what is there, and what comes until `within_s` have passed. Raises Unavailable."""
        deadline = time.monotonic() + within_s
        while True:
            found = self._consumer.consume(500, timeout=max(0.05, min(0.5, deadline - time.monotonic())))
            for message in found:
                fault = message.error()
                if fault is not None and not fault.retriable():
                    raise errors.Unavailable(f"Kafka: {fault.str()}")
                if fault is None:
                    self.records.append(message)
            if not found and time.monotonic() >= deadline:
                return

    def of(self, topic: str) -> list[Message]:
        """What came on `topic`."""
        return [message for message in self.records if message.topic() == topic]


@contextmanager
def tail(settings: Settings, topics: Sequence[str], *, beginning: bool = False) -> Iterator[Tail]:
    """A Tail of `topics` from their present end, or from their beginning. Raises Unavailable."""
    consumer = Consumer(
        broker.client(settings, "orderflow-tail")
        | {"group.id": "orderflow-tail", "enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "earliest"}
    )
    try:
        parts = []
        for topic in topics:
            for number in consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_ANSWER_S)
                parts.append(TopicPartition(topic, number, low if beginning else high))
        consumer.assign(parts)
        yield Tail(consumer)
    except KafkaException as exc:
        raise errors.Unavailable(f"Kafka at {settings.kafka_brokers} does not answer: {exc.args[0].str()}") from exc
    finally:
        consumer.close()
