"""What a topic holds now, and where a group begins to read it."""

from confluent_kafka import Consumer, Message, TopicPartition

from tests import stack


def records(brokers: str, topic: str) -> list[Message]:
    """Every record that `topic` has at this moment, in order within each partition."""
    settings = {"bootstrap.servers": brokers, "group.id": "reader", "fetch.wait.max.ms": 20, "fetch.message.max.bytes": 4 << 20}
    consumer = Consumer(stack.CLIENT | settings)
    try:
        numbers = consumer.list_topics(topic, timeout=stack.PATIENCE_S).topics[topic].partitions
        places = [TopicPartition(topic, number, 0) for number in numbers]
        left = sum(consumer.get_watermark_offsets(place, timeout=stack.PATIENCE_S)[1] for place in places)
        consumer.assign(places)
        found: list[Message] = []

        def read() -> bool:
            found.extend(message for message in consumer.consume(1000, 0.2) if message.error() is None)
            return len(found) >= left

        stack.eventually(read, f"{left} records of {topic}")
        return found
    finally:
        consumer.close()


def begin(brokers: str, topic: str, group: str) -> None:
    """Have `group` begin at 0 by a commit of its own, so that its reader's first commit is that of a record."""
    consumer = Consumer(stack.CLIENT | {"bootstrap.servers": brokers, "group.id": group})
    try:
        consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
    finally:
        consumer.close()
