"""A letter, made and read again without any server."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.dlq_router import addresses, failed, letter
from shared import config
from tests import controls

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SOURCE_BYTES_MAX = 1 << 20
LETTER_BYTES_MAX = 2 * SOURCE_BYTES_MAX + 64 * 1024
TOPIC = "order.payment.completed"

maybe_bytes = st.none() | st.binary(max_size=300)
header_names = st.text(max_size=30)


def body(value: bytes | None, **more: Any) -> bytes:
    """What our source sends about a record."""
    told = {"topic": TOPIC, "partition": 3, "offset": 7, "timestamp": 1_700_000_000_000, "key": None, "value": b64(value), "headers": []}
    told |= {"status": 422, "code": "invalid_event", "detail": "amount: missing", "reason": "refused", "attempts": 1}
    return json.dumps(told | more).encode()


def b64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def read_ours(sent: bytes) -> failed.Failed:
    return failed.read(TOPIC, [(b"content-type", failed.FAILED_RECORD.encode())], sent)


def write(record: failed.Failed, bytes_max: int = LETTER_BYTES_MAX) -> tuple[letter.Letter, dict[str, Any]]:
    made = letter.write(record, "assembly-service", now=NOW, bytes_max=bytes_max)
    return made, json.loads(made.value)


@given(maybe_bytes, maybe_bytes, st.lists(st.tuples(header_names, maybe_bytes), max_size=8))
def test_a_record_of_any_bytes_comes_back_exactly(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]) -> None:
    """Key, value and headers, null and empty told apart, order and repeats kept."""
    sent = body(value, key=b64(key), headers=[[name, b64(content)] for name, content in headers])
    _, told = write(read_ours(sent))
    assert letter.original(told) == (key, value, tuple(headers))
    assert told["original_exact"] is True


@given(st.lists(st.tuples(st.text(st.characters(codec=None)), maybe_bytes), max_size=8))
def test_packed_headers_come_back_exactly(headers: list[tuple[str, bytes | None]]) -> None:
    """Packing keeps every name, also one that has no UTF-8 form."""
    assert letter.unpack(letter.pack(headers)) == tuple(headers)


@given(st.binary(max_size=400), st.sampled_from([failed.FAILED_RECORD, failed.STRUCTURED, "text/plain", ""]))
def test_nothing_that_is_handed_over_fails_to_become_a_letter(sent: bytes, content_type: str) -> None:
    """Any body under any media type makes a letter, and an unreadable one holds the bytes."""
    record = failed.read(TOPIC, [(b"content-type", content_type.encode())], sent)
    _, told = write(record)
    if record.code == failed.UNREADABLE:
        assert letter.original(told)[1] == sent


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
TOLD = ("topic", "partition", "offset", "timestamp", "key", "value", "headers", "status", "code", "detail", "reason", "attempts")


@given(st.dictionaries(st.sampled_from(TOLD), json_values))
def test_a_failed_record_of_any_shape_becomes_a_letter(told: dict[str, Any]) -> None:
    """Wrongly typed fields lose no byte: then the letter's original is the whole body."""
    sent = json.dumps(told).encode()
    record = read_ours(sent)
    made, _ = write(record)
    made.value.decode("ascii")
    assert record.exact or record.value == sent


ATTRIBUTES = (
    "specversion",
    "type",
    "source",
    "id",
    "time",
    "key",
    "knativeerrorcode",
    "knativeerrordata",
    "knativekafkaoffset",
    "kafkaheaderx",
)


@given(st.dictionaries(st.sampled_from([f"ce-{name}" for name in ATTRIBUTES] + ["content-type"]), st.binary(max_size=40)), st.binary())
def test_a_kafkasource_event_with_any_headers_becomes_a_letter(fields: dict[str, bytes], sent: bytes) -> None:
    """Headers of any bytes are read, and the body is the letter's original value."""
    http = [(name.encode(), value) for name, value in fields.items()] + [(b"ce-knativeerrordest", b"http://x"), (b"content-length", b"1")]
    made, told = write(failed.read(TOPIC, http, sent))
    assert letter.original(told)[1] == sent
    assert made.letter_id == told["letter_id"]


def test_every_field_is_there() -> None:
    """A refused order: where it lay, what was wrong, and what it was about."""
    payload = controls.paid(event_id="e-1", order_id="o-1")
    headers = [["traceparent", b64(controls.TRACEPARENT.encode())]]
    made, told = write(read_ours(body(json.dumps(payload).encode(), key=b64(b"k"), headers=headers, place="amount")))
    assert made.key == b"o-1"
    assert told == {
        "letter_id": made.letter_id,
        "consumer": "assembly-service",
        "original_topic": TOPIC,
        "original_partition": 3,
        "original_offset": 7,
        "original_timestamp": 1_700_000_000_000,
        "original_key": b64(b"k"),
        "original_value": b64(json.dumps(payload).encode()),
        "original_headers": headers,
        "original_exact": True,
        "error_code": "invalid_event",
        "error_message": "amount: missing",
        "error_status": 422,
        "place": "amount",
        "reason": "refused",
        "attempts": 1,
        "failed_at": "2026-11-24T12:00:00Z",
        "event_type": "order.payment.completed",
        "event_id": "e-1",
        "order_id": "o-1",
        "traceparent": controls.TRACEPARENT,
    }


def test_the_letter_id_is_that_of_record_and_consumer() -> None:
    """Another failure of the same record is the same letter; another consumer, place, key or value is another letter."""
    first = read_ours(body(b"v", key=b64(b"k")))
    again = read_ours(body(b"v", key=b64(b"k"), code="bug", attempts=4, detail="other", timestamp=1))
    others = [
        read_ours(body(b"v", key=b64(b"k"), offset=8)),
        read_ours(body(b"v", key=b64(b"k"), partition=4)),
        read_ours(body(b"v", key=b64(b"k"), topic="other")),
        read_ours(body(b"kv", key=b64(b""))),
        read_ours(body(None, key=b64(b"kv"))),
        read_ours(body(b"", key=b64(b"kv"))),
    ]
    assert letter.identity(first, "c") == letter.identity(again, "c")
    ids = {letter.identity(each, "c") for each in [first, *others]} | {letter.identity(first, "d")}
    assert len(ids) == 2 + len(others)


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (0, SOURCE_BYTES_MAX, []),
        (SOURCE_BYTES_MAX, 0, []),
        (SOURCE_BYTES_MAX // 2, SOURCE_BYTES_MAX // 2, []),
        (0, 0, [["", None]] * (SOURCE_BYTES_MAX // 2)),
        (0, 0, [["\x01" * SOURCE_BYTES_MAX, None]]),
        (0, 0, [["x", b64(b"\xff" * SOURCE_BYTES_MAX)]]),
    ],
    ids=["value", "key", "both", "a header for every two bytes", "a name of control characters", "a header's value"],
)
def test_L06_a_record_at_the_brokers_limit_has_a_letter_within_its_own(key: int, value: int, headers: list[list[Any]]) -> None:
    """Whatever the record's bytes are, its letter fits the dead-letter topic, and gives them back."""
    detail = "\U0001f4a5\x00\r\n" * 500_000
    sent = body(b"\xff" * value, key=b64(b"\xee" * key), headers=headers, detail=detail)
    made, told = write(read_ours(sent))
    assert len(made.key or b"") + len(made.value) + letter.OVERHEAD_BYTES <= LETTER_BYTES_MAX
    got_key, got_value, got_headers = letter.original(told)
    assert (len(got_key or b""), len(got_value or b"")) == (key, value)
    assert [[name, b64(content)] for name, content in got_headers] == headers


@given(st.text(st.characters(codec=None)), st.integers(16, 200))
def test_L06_an_error_text_of_any_characters_is_bounded_and_printable(text: str, bytes_max: int) -> None:
    """No control character and no half of a surrogate pair is left, and the JSON form keeps to its bytes."""
    shown = letter.escaped(text, bytes_max)
    assert shown.isprintable()
    assert len(json.dumps(shown)) <= bytes_max + 2


@pytest.mark.parametrize(
    ("status", "answer", "code", "reason"),
    [
        ("422", {"code": "invalid_event", "detail": "amount"}, "invalid_event", "refused"),
        ("500", {"code": "bug", "detail": "amount"}, "bug", "out_of_retries"),
        ("503", {"code": "database_away", "detail": "amount"}, "dependency_away", "dependency_away"),
        ("404", None, "dependency_away", "dependency_away"),
        (None, None, "dependency_away", "dependency_away"),
        ("500", None, "http_500", "out_of_retries"),
    ],
)
def test_a_kafkasource_letter_tells_an_outage_from_a_fault(status: str | None, answer: Any, code: str, reason: str) -> None:
    """A KafkaSource cannot; the letter's code does, so that one command replays what an outage made."""
    http = [(b"ce-specversion", b"1.0"), (b"ce-type", b"x"), (b"ce-knativeerrordest", b"http://x"), (b"content-length", b"1")]
    if status:
        http.append((b"ce-knativeerrorcode", status.encode()))
    if answer:
        http.append((b"ce-knativeerrordata", base64.b64encode(json.dumps(answer).encode())))
    _, told = write(failed.read(TOPIC, http, b"v"))
    assert (told["error_code"], told["reason"]) == (code, reason)
    assert told["error_status"] == (int(status) if status else None)
    assert ("amount" in told["error_message"]) == (answer is not None)


def test_O15_events_without_a_content_type_or_with_whole_numbers_as_extensions_become_letters() -> None:
    """In structured mode too, where an extension may be a JSON number or boolean."""
    event = {"specversion": "1.0", "id": "e", "type": "t", "source": "/s", "knativekafkaoffset": 5, "flag": True, "n": 7, "data": {"a": 1}}
    record = failed.read(TOPIC, [(b"content-type", failed.STRUCTURED.encode())], json.dumps(event).encode())
    _, told = write(record)
    assert (told["original_offset"], told["event_id"], told["event_type"], told["original_exact"]) == (5, "e", "t", False)
    assert letter.original(told) == (None, b'{"a": 1}', record.headers)
    assert ("ce_n", b"7") in record.headers


def test_letters_are_addressed_by_the_manifests_names_and_by_the_environments() -> None:
    """A consumer group that was renamed has the path that its manifest says, and the letter names it as it is now."""
    renamed = addresses.Addresses(
        config.Settings(overrides={"KAFKA_ASSEMBLY_CONSUMER_GROUP_ID": "mine", "KAFKA_NOTIFICATION_DLQ_TOPIC": "n"})
    )
    old, new = renamed.find(f"/assembly-service/{TOPIC}"), renamed.find(f"/base/mine/{TOPIC}")
    assert old is not None
    assert (old, old.group, old.dead_letter_topic) == (new, "mine", f"{TOPIC}.dlq")
    other = renamed.find("/notification-assembly/order.assembly.completed")
    assert other is not None
    assert other.dead_letter_topic == "n"
    assert renamed.find("/assembly-service") is None
    assert renamed.find("/assembly-service/order.assembly.completed") is None


def test_a_path_that_names_nobody_has_a_nearest_consumer() -> None:
    """Of the same group, else of the same topic, else any: what a KafkaSource hands over is not lost."""
    known = addresses.Addresses(config.Settings())
    assert known.nearest("/notification-payment/typo").group == "notification-payment"
    assert known.nearest("/typo/order.assembly.completed").topic == "order.assembly.completed"
    assert known.nearest("/").dead_letter_topic


def test_the_limits_follow_the_declared_topics() -> None:
    """Letters have twice the largest source topic's bytes and 64 KiB; a body has room for any record written as JSON."""
    known = addresses.Addresses(config.Settings())
    assert known.letter_bytes_max == LETTER_BYTES_MAX
    worst = body(None, headers=[["\x01" * SOURCE_BYTES_MAX, None]])
    assert len(worst) < known.body_bytes_max
    assert len(body(None, headers=[["", None]] * (SOURCE_BYTES_MAX // 2))) < known.body_bytes_max
