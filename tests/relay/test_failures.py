"""Rows that cannot be sent, brokers and databases that go away, and relays that die at the worst moment."""

import os
import signal
import time
from collections.abc import Callable

import httpx
import pytest
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType

from connectors.outbox_relay.relay import Relay
from shared import config, database, errors
from tests import stack
from tests.conftest import MakeTopic
from tests.relay import conftest
from tests.relay.conftest import Outbox, StartRelay


def _in_flight(outbox: Outbox, kafka: stack.KafkaServer, topic: str) -> str:
    """Freeze the broker, and have the relay claim a row and give it to its client; its event id."""
    kafka.process.send(signal.SIGSTOP)
    event_id = outbox.add(topic, b"key", b"2")
    outbox.until_in_flight(event_id)
    time.sleep(0.3)  # most likely it is given to the client by then; what is tested holds in either case
    return event_id


def test_O03_a_row_that_cannot_be_sent_holds_up_its_own_key_only(
    outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic
) -> None:
    """A record that is too large is set aside with its error; its batch neighbours go out, its followers wait for a decision."""
    topic = make_topic(1, {"max.message.bytes": "20000"})
    first, too_large, follower = [outbox.add(topic, b"key", os.urandom(size)) for size in (10, 30_000, 20)]
    outbox.add_many(topic, keys=50)
    headers = outbox.add(topic, b"bad headers", headers='{"n": 1}')
    relay = start_relay(outbox.made, kafka_brokers, {"RELAY_BATCH_ROWS": "200"})

    failed = outbox.until(too_large, "failed")
    assert "MSG_SIZE_TOO_LARGE" in failed["last_error"]
    assert failed["attempts"] == 1
    assert "headers" in outbox.until(headers, "failed")["last_error"]
    outbox.until(first)
    stack.eventually(lambda: outbox.statuses() == {"sent": 51, "failed": 2, "pending": 1}, "all but those two and the follower to be sent")
    assert httpx.get(f"{relay.url}/status", timeout=30).json()["failed"] == 2
    assert 'orderflow_relay_failed_total{reason="msg_size_too_large"} 1.0' in httpx.get(f"{relay.url}/metrics", timeout=30).text

    outbox.made.run("UPDATE order_outbox_events SET status = 'discarded' WHERE event_id = :id", id=too_large)
    outbox.until(follower)


def test_a_topic_that_stays_unknown_sets_its_rows_aside(
    outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic
) -> None:
    """Rows for a topic that Kafka does not know are set aside after the limit and not before; other topics' rows do not wait."""
    there, missing = make_topic(), f"{make_topic()}.missing"
    lost, began = outbox.add(missing, b"key"), time.monotonic()
    relay = start_relay(outbox.made, kafka_brokers, {"RELAY_TOPIC_UNKNOWN_MAX": "4s"})
    outbox.until(outbox.add(there, b"key"))
    failed = outbox.until(lost, "failed")
    assert time.monotonic() - began >= 4
    assert failed["last_error"] == f"the topic {missing} does not exist"
    assert 'reason="unknown_topic"} 1.0' in httpx.get(f"{relay.url}/metrics", timeout=30).text

    make_topic(name=missing)
    outbox.made.run("UPDATE order_outbox_events SET status = 'pending' WHERE event_id = :id", id=lost)
    outbox.until(lost)


def test_a_topic_that_is_deleted_holds_up_no_other(
    outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic
) -> None:
    """A topic that goes away while the relay runs is noticed: its rows are set aside at the limit, other topics' rows go out."""
    there, gone = make_topic(), make_topic()
    start_relay(outbox.made, kafka_brokers, conftest.IMPATIENT | {"RELAY_TOPIC_UNKNOWN_MAX": "1s"})
    outbox.until(outbox.add(gone))
    admin = AdminClient(stack.CLIENT | {"bootstrap.servers": kafka_brokers})
    admin.delete_topics([gone])[gone].result(stack.PATIENCE_S)
    stack.eventually(lambda: gone not in admin.list_topics(timeout=stack.PATIENCE_S).topics, "the topic to be gone")
    lost, sent = outbox.add(gone), outbox.add(there)
    outbox.until(sent)
    assert outbox.until(lost, "failed")["last_error"] == f"the topic {gone} does not exist"
    outbox.until(outbox.add(there))


def test_a_topic_without_permission_sets_its_rows_aside(
    outbox: Outbox, start_relay: StartRelay, private_kafka: Callable[..., stack.KafkaServer]
) -> None:
    """A row that the relay may not write is set aside with Kafka's word for it; other topics' rows go out."""
    kafka = private_kafka(
        {"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "allow.everyone.if.no.acl.found": "true"}
    )
    closed, open_ = kafka.make_topic(), kafka.make_topic()
    admin = AdminClient(stack.CLIENT | {"bootstrap.servers": kafka.brokers})
    denied = AclBinding(ResourceType.TOPIC, closed, ResourcePatternType.LITERAL, "User:*", "*", AclOperation.WRITE, AclPermissionType.DENY)
    admin.create_acls([denied])[denied].result(stack.PATIENCE_S)
    refused, sent = outbox.add(closed, b"key"), outbox.add(open_, b"key")
    start_relay(outbox.made, kafka.brokers)
    outbox.until(sent)
    assert "TOPIC_AUTHORIZATION_FAILED" in outbox.until(refused, "failed")["last_error"]


def test_a_topic_that_is_made_in_time_loses_nothing(
    outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic
) -> None:
    """Rows for a topic that is not there yet wait for it, without an attempt."""
    late = f"{make_topic()}.late"
    outbox.add_many(late, keys=3, of_each=3)
    relay = start_relay(outbox.made, kafka_brokers)
    stack.eventually(lambda: "does not know the topic" in relay.text, "the relay to find out")
    make_topic(name=late)
    outbox.until_sent(9)
    lines = conftest.by_key(conftest.records(kafka_brokers, late, 9))
    assert lines == {f"key-{n}".encode(): [b"1", b"2", b"3"] for n in (1, 2, 3)}
    assert outbox.made.run("SELECT DISTINCT attempts FROM order_outbox_events") == [[1]]


def test_O01_a_broker_that_is_away_uses_no_attempts_and_keeps_the_order(
    outbox: Outbox, start_relay: StartRelay, private_kafka: Callable[..., stack.KafkaServer]
) -> None:
    """While the broker is frozen or down rows wait with no attempt counted; afterwards all go out, each key in order."""
    kafka = private_kafka()
    topic = kafka.make_topic(2)
    relay = start_relay(outbox.made, kafka.brokers, conftest.IMPATIENT)
    outbox.until(outbox.add(topic))

    kafka.process.send(signal.SIGSTOP)
    outbox.add_many(topic, keys=5, of_each=4)
    stack.eventually(
        lambda: httpx.get(f"{relay.url}/status", timeout=30).json()["state"] == "kafka_away", "the relay to see that Kafka is away"
    )
    assert httpx.get(f"{relay.url}/ready", timeout=30).status_code == 503
    assert outbox.made.run(
        "SELECT DISTINCT status, attempts, last_error FROM order_outbox_events WHERE aggregate_id = 'o' AND sent_at IS NULL"
    ) == [["pending", 0, None]]
    kafka.process.send(signal.SIGCONT)
    outbox.until_sent(21)

    kafka.stop()
    last = outbox.add(topic, b"key-1", b"5")
    stack.eventually(
        lambda: httpx.get(f"{relay.url}/status", timeout=30).json()["state"] == "kafka_away", "the relay to see that Kafka is down"
    )
    assert outbox.one(last) == {"status": "pending", "attempts": 0, "last_error": None, "sent_when_due": None}
    kafka.start()
    assert outbox.until(last)["attempts"] == 1

    lines = conftest.by_key(conftest.records(kafka.brokers, topic, 22))
    assert lines[b"key-1"] == [b"1", b"2", b"3", b"4", b"5"]
    assert all(lines[f"key-{n}".encode()] == [b"1", b"2", b"3", b"4"] for n in range(2, 6))


def test_L19_a_relay_killed_before_the_report_leaves_the_row_pending(
    outbox: Outbox, start_relay: StartRelay, private_kafka: Callable[..., stack.KafkaServer]
) -> None:
    """A record that was given to the client, and whose report never came, is still pending, and the next relay sends it."""
    kafka = private_kafka()
    topic = kafka.make_topic()
    relay = start_relay(outbox.made, kafka.brokers, {"RELAY_DELIVERY_TIMEOUT": "15s"})
    outbox.until(outbox.add(topic))
    event_id = _in_flight(outbox, kafka, topic)
    relay.kill()
    stack.eventually(lambda: not outbox.claimed(event_id), "the dead relay's lock to be gone")
    assert outbox.one(event_id) == {"status": "pending", "attempts": 0, "last_error": None, "sent_when_due": None}
    kafka.process.send(signal.SIGCONT)
    relay.start()
    outbox.until(event_id)
    assert event_id in conftest.ids(conftest.records(kafka.brokers, topic, 2))


def test_D06_a_relay_killed_between_publish_and_mark_publishes_again_with_the_same_id(
    outbox: Outbox, start_relay: StartRelay, private_kafka: Callable[..., stack.KafkaServer]
) -> None:
    """kill -9 after Kafka's report and before the mark: the next relay publishes the record again, under the same event id."""
    kafka = private_kafka()
    topic = kafka.make_topic()
    relay = start_relay(outbox.made, kafka.brokers, {"RELAY_DELIVERY_TIMEOUT": "15s"})
    first = outbox.add(topic, b"key", b"1")
    outbox.until(first)
    event_id = _in_flight(outbox, kafka, topic)
    (backend,) = outbox.relay_backends()  # of two workers one waits for its turn
    os.kill(backend, signal.SIGSTOP)  # the mark will reach nobody
    try:
        kafka.process.send(signal.SIGCONT)
        assert conftest.ids(conftest.records(kafka.brokers, topic, 2)) == [first, event_id]
        relay.kill()
        assert outbox.one(event_id)["status"] == "pending"
    finally:
        os.kill(backend, signal.SIGCONT)
    relay.start()
    outbox.until(event_id)
    found = conftest.records(kafka.brokers, topic, 3)
    assert conftest.ids(found) == [first, event_id, event_id]
    assert found[1].value() == found[2].value()


def test_O01_order_holds_when_a_replica_is_killed(
    outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic
) -> None:
    """kill -9 of one of two relays amid 4,000 rows: nothing is lost, and no key's row comes before an older one."""
    topic = make_topic(4)
    relays = [start_relay(outbox.made, kafka_brokers, {"RELAY_BATCH_ROWS": "100"}) for _ in range(2)]
    outbox.add_many(topic, keys=200, of_each=20)
    stack.eventually(lambda: outbox.statuses().get("sent", 0) > 500, "some rows to be sent")
    relays[0].kill()
    outbox.until_sent(4000)
    lines = conftest.by_key(conftest.records(kafka_brokers, topic, 4000))
    assert len(lines) == 200
    assert all(line == [str(n).encode() for n in range(1, 21)] for line in lines.values())


def test_sigterm_finishes_what_is_in_flight(
    outbox: Outbox, start_relay: StartRelay, private_kafka: Callable[..., stack.KafkaServer]
) -> None:
    """A relay that is asked to end while a row is published waits for the report, marks the row, claims no other, and exits 0."""
    kafka = private_kafka()
    topic = kafka.make_topic()
    relay = start_relay(outbox.made, kafka.brokers, {"RELAY_DELIVERY_TIMEOUT": "15s", "SHUTDOWN_TIMEOUT": "30s"})
    outbox.until(outbox.add(topic))
    event_id = _in_flight(outbox, kafka, topic)
    relay.send(signal.SIGTERM)
    stack.eventually(lambda: httpx.get(f"{relay.url}/status", timeout=30).json()["state"] == "draining", "the relay to drain")
    late = outbox.add(topic)
    kafka.process.send(signal.SIGCONT)
    assert relay.wait() == 0
    assert outbox.one(event_id)["status"] == "sent"
    assert outbox.one(late)["status"] == "pending"


def test_sigterm_ends_a_relay_whose_broker_is_away(
    outbox: Outbox, start_relay: StartRelay, private_kafka: Callable[..., stack.KafkaServer]
) -> None:
    """With no report to come for a long time the relay gives up at SHUTDOWN_TIMEOUT, exits 0, and the row stays pending."""
    kafka = private_kafka()
    topic = kafka.make_topic()
    slow = {"RELAY_DELIVERY_TIMEOUT": "100s", "DELIVERY_DEADLINE": "110s"}
    relay = start_relay(outbox.made, kafka.brokers, {"SHUTDOWN_TIMEOUT": "1s"} | slow)
    outbox.until(outbox.add(topic))
    event_id = _in_flight(outbox, kafka, topic)
    assert relay.stop(within_s=50) == 0
    assert outbox.one(event_id) == {"status": "pending", "attempts": 0, "last_error": None, "sent_when_due": None}


def test_a_lost_connection_drops_what_is_in_flight(
    outbox: Outbox, start_relay: StartRelay, private_kafka: Callable[..., stack.KafkaServer]
) -> None:
    """When the database ends the relay's connections, its locks are gone: it drops its records at once, connects again, and sends all."""
    kafka = private_kafka()
    topic = kafka.make_topic()
    patient = {"RELAY_DELIVERY_TIMEOUT": "100s", "DELIVERY_DEADLINE": "110s"}  # so that it is not this that ends the wait
    relay = start_relay(outbox.made, kafka.brokers, patient)
    outbox.until(outbox.add(topic))
    event_id = _in_flight(outbox, kafka, topic)
    own = database.Database(outbox.made.dsn("orderflow_relay"), settings=config.Settings(), application="test")
    own.transact(lambda tx: tx.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'orderflow-relay'"))
    own.close()
    stack.eventually(lambda: "the database is away" in relay.text, "the relay to notice")
    kafka.process.send(signal.SIGCONT)
    outbox.until(event_id)
    assert relay.alive()


def test_a_database_that_restarts_is_found_again(
    private_postgres: Callable[..., stack.PostgresServer], start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic
) -> None:
    """The relay outlives an outage of its database, answers /health meanwhile, and goes on."""
    server = private_postgres()
    outbox, topic = Outbox(server.new_database()), make_topic()
    relay = start_relay(outbox.made, kafka_brokers)
    outbox.until(outbox.add(topic))
    server.stop()
    stack.eventually(lambda: httpx.get(f"{relay.url}/ready", timeout=30).status_code == 503, "/ready to say so")
    assert httpx.get(f"{relay.url}/health", timeout=30).status_code == 200
    assert httpx.get(f"{relay.url}/status", timeout=30).json()["pending"] is None
    server.start()
    event_id = stack.eventually(lambda: outbox.add(topic), "the database to take a row")
    outbox.until(event_id)


def test_a_wait_for_kafka_that_outlives_its_transaction_is_refused_at_start() -> None:
    """PostgreSQL ends an idle transaction after DELIVERY_DEADLINE, so the last report must come before."""
    with pytest.raises(errors.ConfigError, match="RELAY_DELIVERY_TIMEOUT"):
        Relay(config.Settings(relay_delivery_timeout=16.0, delivery_deadline=20.0))
