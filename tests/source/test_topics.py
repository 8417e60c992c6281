"""Topics whose offsets have gaps, and topics that are no longer the ones they were."""

import time
import uuid
from collections.abc import Callable

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests import stack
from tests.source import sinks
from tests.source.conftest import Group, StartSource


def transactional(group: Group) -> Producer:
    producer = Producer(stack.CLIENT | {"bootstrap.servers": group.brokers, "transactional.id": f"tx-{uuid.uuid4().hex}"})
    producer.init_transactions(stack.PATIENCE_S)
    return producer


def test_O05_offset_gaps_of_transactions_do_not_stop_commits(group: Group, start_source: StartSource) -> None:
    """Aborted batches and markers, also at the end of the partition, leave no lag, and aborted records are not delivered."""
    producer = transactional(group)
    for n in range(6):
        producer.begin_transaction()
        for m in range(3):
            producer.produce(group.topic, b"%d" % (10 * n + m), partition=0)
        producer.flush()
        if n % 2:
            producer.abort_transaction(stack.PATIENCE_S)
        else:
            producer.commit_transaction(stack.PATIENCE_S)
    source = start_source(group, size=4)
    group.wait_committed(24)
    assert sorted(event.json for event in group.sink.events) == [0, 1, 2, 20, 21, 22, 40, 41, 42]
    stack.eventually(lambda: source.status()["lag"] == 0, "lag 0")
    producer.begin_transaction()
    producer.produce(group.topic, b"99", partition=0)
    producer.flush()
    producer.abort_transaction(stack.PATIENCE_S)
    group.wait_committed(26)
    stack.eventually(lambda: source.status()["lag"] == 0, "lag 0 after an aborted batch at the end")


def recreate(group: Group, *values: bytes) -> None:
    admin = AdminClient(stack.CLIENT | {"bootstrap.servers": group.brokers})
    admin.delete_topics([group.topic])[group.topic].result(stack.PATIENCE_S)
    stack.eventually(lambda: group.topic not in admin.list_topics(timeout=5).topics, "the topic to go")
    make_topic(admin, group)
    group.produce(*values)


def make_topic(admin: AdminClient, group: Group) -> None:
    def made() -> bool:
        future = admin.create_topics([NewTopic(group.topic, 1, 1)])[group.topic]
        return future.exception(stack.PATIENCE_S) is None

    stack.eventually(made, "the topic to be created again")
    stack.eventually(lambda: group.topic in admin.list_topics(timeout=5).topics, "the topic")


def test_L17_a_topic_created_again_is_read_from_its_beginning(group: Group, start_source: StartSource) -> None:
    """While the source is down a topic is replaced by one with more records than were committed: all of them are delivered."""
    group.produce(b'"old-0"', b'"old-1"', b'"old-2"')
    source = start_source(group)
    group.wait_committed(3)
    source.stop()
    assert (group.committed_raw().metadata or "").startswith("topic-id=")
    before = group.committed_raw()
    recreate(group, *(b'"new-%d"' % n for n in range(5)))
    restore_offset(group, before)
    start_source(group)
    stack.eventually(lambda: len(group.sink.events) == 8, "all of the new topic")
    assert [event.json for event in group.sink.events][3:] == [f"new-{n}" for n in range(5)]
    group.wait_committed(5)


def restore_offset(group: Group, before: TopicPartition) -> None:
    """A broker forgets offsets with their topic; one that was restored from a backup, or is of another maker, does not."""
    consumer = Consumer(stack.CLIENT | {"bootstrap.servers": group.brokers, "group.id": group.name, "enable.auto.commit": False})
    try:
        consumer.commit(offsets=[before], asynchronous=False)
    finally:
        consumer.close()
    assert group.committed() == 3


def test_L17_a_topic_created_again_while_the_source_runs(group: Group, start_source: StartSource) -> None:
    """The running source notices by the topic's id, forgets the old offsets and delivers everything of the new one."""
    group.produce(b'"old-0"', b'"old-1"', b'"old-2"')
    start_source(group)
    group.wait_committed(3)
    recreate(group, *(b'"new-%d"' % n for n in range(5)))
    expected = {f"new-{n}" for n in range(5)}
    stack.eventually(lambda: expected <= {event.json for event in group.sink.events}, "all of the new topic")
    group.wait_committed(5)
    group.produce(b'"new-5"')
    group.wait_committed(6)
    assert [event.json for event in group.sink.events].count("new-5") == 1


def test_a_source_waits_for_a_topic_that_is_not_there_yet(group: Group, start_source: StartSource) -> None:
    """It starts, says what is missing, and reads the topic once it is created."""
    group.topic = f"later.{uuid.uuid4().hex}"
    source = start_source(group)
    stack.eventually(lambda: group.topic in (source.status()["reason"] or ""), "the reason")
    make_topic(AdminClient(stack.CLIENT | {"bootstrap.servers": group.brokers}), group)
    group.produce(b"1")
    group.wait_committed(1)
    assert source.status()["reason"] is None


def test_initial_offset_latest_starts_at_the_end_once(group: Group, start_source: StartSource) -> None:
    """With `initialOffset: latest` what was there before is left out, and what comes while the source is down is not."""
    group.produce(b"1", b"2")
    source = start_source(group, initialOffset="latest")
    group.wait_committed(2)
    source.stop()
    group.produce(b"3")
    start_source(group, initialOffset="latest")
    group.wait_committed(3)
    assert [event.json for event in group.sink.events] == [3]


def test_a_broker_that_goes_away_and_comes_back(private_kafka: Callable[[], stack.KafkaServer], start_source: StartSource) -> None:
    """kill -9 of the broker and its restart lose nothing and need no restart of the source."""
    server = private_kafka()
    sink, letters = sinks.Sink(), sinks.Sink()
    group = Group(server.brokers, server.make_topic(), f"group-{uuid.uuid4().hex[:12]}", sink, letters)
    try:
        group.produce(*(b"%d" % n for n in range(10)))
        source = start_source(group)
        group.wait_committed(10)
        server.kill()
        time.sleep(0.5)
        server.start()
        group.produce(*(b"%d" % n for n in range(10, 20)))
        group.wait_committed(20)
        assert {event.json for event in sink.events} == set(range(20))
        source.stop()
    finally:
        sink.close()
        letters.close()
