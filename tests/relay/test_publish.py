"""What the relay makes of rows when nothing is in its way."""

import time

import httpx

from tests import stack
from tests.conftest import MakeTopic, StartProcess
from tests.relay import conftest
from tests.relay.conftest import Outbox, StartRelay


def test_a_row_becomes_its_record(outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic) -> None:
    """Key and value travel byte for byte, headers as UTF-8, and the row is marked as sent once."""
    topic = make_topic(3)
    binary = outbox.add(topic, b"\x00\xff", bytes(range(256)), headers='{"ce_subject": "Ünïcode", "content-type": "application/json"}')
    empty = outbox.add(topic, b"", b"")
    keyless = outbox.add(topic, None, b"{}")
    start_relay(outbox.made, kafka_brokers)
    outbox.until_sent(3)

    found = {record_id: message for message in conftest.records(kafka_brokers, topic, 3) for record_id in conftest.ids([message])}
    assert set(found) == {binary, empty, keyless}
    assert (found[binary].key(), found[binary].value()) == (b"\x00\xff", bytes(range(256)))
    assert dict(found[binary].headers() or [])["ce_subject"] == "Ünïcode".encode()
    assert (found[empty].key(), found[empty].value()) == (b"", b"")
    assert found[keyless].key() is None
    assert outbox.one(binary) == {"status": "sent", "attempts": 1, "last_error": None, "sent_when_due": True}


def test_a_key_of_any_length_is_published(outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic) -> None:
    """A key longer than an index entry may be can be staged, and keeps its order."""
    topic, key = make_topic(), b"k" * 100_000
    for n in range(3):
        outbox.add(topic, key, str(n).encode())
    start_relay(outbox.made, kafka_brokers)
    outbox.until_sent(3)
    assert conftest.by_key(conftest.records(kafka_brokers, topic, 3)) == {key: [b"0", b"1", b"2"]}


def test_D05_four_relays_publish_each_row_once(outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic) -> None:
    """Four relays on 10,000 rows claim each row once, and one key's rows stay in order."""
    topic = make_topic(8)
    outbox.add_many(topic, keys=2000, of_each=5)
    for _ in range(4):
        start_relay(outbox.made, kafka_brokers)
    outbox.until_sent(10_000)

    found = conftest.records(kafka_brokers, topic, 10_000)
    assert len(found) == len(set(conftest.ids(found))) == 10_000
    assert outbox.made.run("SELECT DISTINCT attempts FROM order_outbox_events") == [[1]]
    assert all(line == [b"1", b"2", b"3", b"4", b"5"] for line in conftest.by_key(found).values())


def test_a_long_queue_of_one_key_does_not_hold_up_others(
    outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic
) -> None:
    """2,000 rows of one key go out in order, and rows of other keys that were staged after them do not wait for the last."""
    topic = make_topic(2)
    outbox.add_many(topic, keys=1, of_each=2000)
    other = outbox.add(topic, b"other")
    start_relay(outbox.made, kafka_brokers, {"RELAY_BATCH_ROWS": "50"})
    outbox.until_sent(2001)
    sooner = "SELECT sent_at < (SELECT max(sent_at) FROM order_outbox_events) FROM order_outbox_events WHERE event_id = :id"
    assert outbox.made.run(sooner, id=other) == [[True]]
    assert conftest.by_key(conftest.records(kafka_brokers, topic, 2001))[b"key-1"] == [str(n).encode() for n in range(1, 2001)]


def test_a_hint_wakes_the_relay(outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic) -> None:
    """With sweeps an hour apart, a notification alone brings a row out, also after one whose payload is not ASCII."""
    topic = make_topic()
    relay = start_relay(outbox.made, kafka_brokers, {"RELAY_SWEEP_INTERVAL": "1h"})
    first = outbox.add(topic)
    outbox.made.run("NOTIFY order_outbox_events")
    outbox.until(first)
    quiet = _unseen(outbox, topic)
    outbox.made.run("NOTIFY order_outbox_events, 'ü'")
    outbox.until(quiet)
    for _ in range(3):
        event_id = outbox.add(topic)
        outbox.made.run("NOTIFY order_outbox_events")
        outbox.until(event_id)
    assert relay.alive()


def _unseen(outbox: Outbox, topic: str) -> str:
    """A row without a hint that stays where it is. One that a look finds which still followed from a hint is replaced by another."""
    for _ in range(10):
        event_id = outbox.add(topic)
        time.sleep(1)
        if outbox.one(event_id)["status"] == "pending":
            return event_id
    raise AssertionError("rows are found without a hint")


def test_a_row_waits_for_its_due_time(outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic) -> None:
    """A row is published when it is due by the database's clock, without a hint then and long before the next sweep."""
    topic = make_topic()
    late, soon = outbox.add(topic, b"late", due_in_s=3600), outbox.add(topic, b"soon", due_in_s=2)
    relay = start_relay(outbox.made, kafka_brokers, {"RELAY_SWEEP_INTERVAL": "1h"})
    assert outbox.until(soon)["sent_when_due"] is True
    assert outbox.one(late)["status"] == "pending"
    assert httpx.get(f"{relay.url}/status", timeout=30).json() == {
        "state": "running",
        "pending": 1,
        "due": 0,
        "failed": 0,
        "oldest_due_seconds": 0,
    }


def test_its_address_says_how_it_is(outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic) -> None:
    """/health, /ready, /status and /metrics answer, and the metrics count what was published."""
    topic = make_topic()
    relay = start_relay(outbox.made, kafka_brokers)
    outbox.until(outbox.add(topic))
    assert httpx.get(f"{relay.url}/ready", timeout=30).json() == {"status": "ready"}

    def counted() -> bool:
        return f'orderflow_relay_published_total{{topic="{topic}"}} 1.0' in httpx.get(f"{relay.url}/metrics", timeout=30).text

    stack.eventually(counted, "the row to be counted")
    text = httpx.get(f"{relay.url}/metrics", timeout=30).text
    assert 'orderflow_outbox_depth{status="pending"} 0.0' in text
    assert "orderflow_outbox_oldest_due_seconds 0.0" in text
    assert "orderflow_relay_publish_seconds_count 1.0" in text


def test_a_taken_port_is_said(outbox: Outbox, start_relay: StartRelay, start_process: StartProcess, kafka_brokers: str) -> None:
    """A second relay on the same control port says so and ends with 2."""
    first = start_relay(outbox.made, kafka_brokers)
    port = first.url.rpartition(":")[2]
    second = start_process([*conftest.COMMAND, "--control-port", port], outbox.made.environment() | {"KAFKA_BROKERS": kafka_brokers})
    assert second.wait() == 2
    assert f"127.0.0.1:{port}: " in second.text
    assert "Traceback" not in second.text
