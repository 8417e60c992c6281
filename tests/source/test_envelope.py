"""A record as a CloudEvent, in the cases that need no broker."""

import dataclasses
import json
import struct
from typing import Any

import httpx
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, Message
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka_source import answers, record, splice
from connectors.kafka_source.answers import Kind
from connectors.kafka_source.partition import Partition
from connectors.kafka_source.plan import Source

SOURCE = Source(
    name="s", namespace="shop", topics=("t",), group="g", brokers="b:1", earliest=True, ordered=True, key_type="string", extensions={},
    batch_size=1, batch_wait_s=0, requests_in_flight=1, records_ahead_max=10, retries=3, backoff_delay_s=0.5, exponential=True, timeout_s=1,
    sink="http://f/", health="http://f/health", letters="http://d", letters_by_topic=True,
)  # fmt: skip


def of(
    value: bytes | None, offset: int = 0, key: bytes | None = None, headers: Any = None, timestamp: Any = (TIMESTAMP_NOT_AVAILABLE, 0)
) -> record.Record:
    message: Any = Message("t", 3, offset, key, value, headers, None, timestamp)
    return record.Record(message, Partition("t", 3, 0, None), offset, 0.0)


def test_O13_an_offset_above_2_31_is_carried_as_text() -> None:
    """CloudEvents Integer ends at 2^31: in JSON the offset is a string, in HTTP its digits."""
    envelope = record.Envelope(SOURCE)
    element = json.loads(envelope.element(of(b"1", offset=3_000_000_000)))
    assert (element["knativekafkaoffset"], element["knativekafkapartition"]) == ("3000000000", "3")
    headers, _ = envelope.request(of(b"1", offset=3_000_000_000))
    assert dict(headers)[b"ce-knativekafkaoffset"] == b"3000000000"


names = st.sampled_from(
    [
        "ce_specversion",
        "ce_id",
        "ce_type",
        "ce_source",
        "ce_subject",
        "ce_myext",
        "content-type",
        "Content-Type",
        "traceparent",
        "other",
        "ce_data",
        "ce_%b",
    ]
)
texts = st.sampled_from(["application/json", "text/plain", "", "100%b", 'quo"te', "back\\slash", "line\n", "é😀", "\x7f"]) | st.text(
    max_size=8
)
header_values = st.none() | texts.map(str.encode) | st.binary(max_size=4)
cloudevent = st.just([("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_type", b"t"), ("ce_source", b"/s")])
header_lists = st.tuples(cloudevent | st.just([]), st.lists(st.tuples(names, header_values), max_size=4)).map(
    lambda parts: parts[0] + parts[1]
)
data = st.none() | st.sampled_from([b"", b'{"a": 1}', b"%b", b"{", b'"\xff"', b"1"]) | st.binary(max_size=6)
keys = st.none() | st.binary(max_size=4)
extensions = st.sampled_from([{}, {"kafkatopic": "t"}, {"subject": "mine", "myext": '"%b"'}, {"datacontenttype": "text/plain"}])


@given(headers=header_lists, value=data, key=keys, more=extensions, key_type=st.sampled_from(["string", "byte-array"]))
def test_the_short_way_to_an_element_says_the_same_as_the_long_one(
    headers: Any, value: bytes | None, key: bytes | None, more: dict[str, str], key_type: str
) -> None:
    """Whatever a record holds, both ways make the same CloudEvent of it."""
    envelope = record.Envelope(dataclasses.replace(SOURCE, extensions=more, key_type=key_type))
    made = of(value, 7, key, headers, (TIMESTAMP_CREATE_TIME, 1_700_000_000_123))
    assert json.loads(envelope.element(made)) == json.loads(envelope.careful_element(made))


def test_our_own_records_go_the_short_way() -> None:
    """A CloudEvent with our headers, and a plain record with a key, need no care."""
    source = dataclasses.replace(SOURCE, extensions={"kafkatopic": "t"}, key_type="byte-array")
    splicer = splice.Splicer("/o", "byte-array", source.extensions, record.Envelope(source)._learn)
    ours = [*((f"ce_{name}", b"x") for name in ("specversion", "id", "type", "source", "time")), ("content-type", b"application/json")]
    assert splicer.element(of(b'{"a":1}', headers=ours)) is not None
    assert splicer.element(of(b'{"a":1}', key=b"\x00")) is not None


FLOAT_NAN = struct.pack(">d", float("nan"))
# (key bytes, what KafkaSource shows for string, int, float, byte-array); None: not shown as such by KafkaSource
KEYS = [
    (b"\x00\x00\x00\x2a", None, "42", "5.9E-44", "AAAAKg=="),
    (b"abc", "abc", "abc", "abc", "YWJj"),
    (struct.pack(">d", 1.5), None, None, "1.5", "P/gAAAAAAAA="),
    (struct.pack(">f", 2.25), None, "1074790400", "2.25", "QBAAAA=="),
    (FLOAT_NAN, None, None, "NaN", "f/gAAAAAAAA="),
    (struct.pack(">f", 100.0), None, None, "100.0", None),
    (struct.pack(">d", 1.0e10), None, None, "1.0E10", None),
    (struct.pack(">d", -0.001), None, None, "-0.001", None),
]


@pytest.mark.parametrize(("key", "string", "integer", "real", "array"), KEYS)
def test_keys_are_shown_as_knative_shows_them(
    key: bytes, string: str | None, integer: str | None, real: str | None, array: str | None
) -> None:
    """Each key type of the label, with the values that KafkaSource was seen to send."""
    for key_type, shown in (("string", string), ("int", integer), ("float", real), ("byte-array", array)):
        if shown is not None:
            assert record.key_text(key, key_type) == shown


@pytest.mark.parametrize("text", ["a\nb", "tab\t", "中", " leading", "trailing ", "\x7f", "\x85"])
def test_what_http_headers_cannot_carry_travels_in_json(text: str) -> None:
    """Control characters, blanks at the ends and what is beyond Latin-1 go in structured mode, unchanged."""
    made = of(b'{"n":1}', headers=[("x", text.encode())])
    headers, body = record.Envelope(SOURCE).request(made)
    assert headers == [(b"content-type", b"application/cloudevents+json")]
    element = json.loads(body or b"")
    assert (element["kafkaheaderx"], element["data"]) == (text, {"n": 1})


def test_what_http_headers_can_carry_travels_in_them() -> None:
    """Latin-1 goes as its bytes, an empty value as an empty header, percent signs as they are."""
    made = of(b"x", key=b'a"b%c d', headers=[("l", "é".encode()), ("empty", b"")], timestamp=(TIMESTAMP_CREATE_TIME, 1_700_000_000_123))
    headers, body = record.Envelope(SOURCE).request(made)
    found = dict(headers)
    assert (found[b"ce-kafkaheaderl"], found[b"ce-kafkaheaderempty"], found[b"ce-key"]) == (b"\xe9", b"", b'a"b%c d')
    assert found[b"ce-time"] == b"2023-11-14T22:13:20.123Z"
    assert found[b"Kn-Namespace"] == b"shop"
    assert body == b"x"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, Kind.DONE) for status in (200, 201, 202, 204, 206, 299)),
        *((status, Kind.REFUSED) for status in (400, 413, 415, 422)),
        *((status, Kind.AWAY) for status in (401, 403, 404, 405, 408, 409, 429, 503)),
        *((status, Kind.LOST) for status in (502, 504)),
        *((status, Kind.COUNTED) for status in (300, 302, 304, 402, 406, 410, 418, 451, 500, 501, 505, 599)),
    ],
)
def test_every_status_is_of_one_kind(status: int, kind: Kind) -> None:
    """Whose fault each status is."""
    assert answers.of(httpx.Response(status)).kind is kind


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("0", 0),
        ("1.5", 1.5),
        ("-3", 0),
        ("99999999", 3600),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_retry_after_is_read_and_bounded(text: str, seconds: float | None) -> None:
    """Seconds or a date; nonsense is as if it were not there; an hour at the most."""
    assert answers.retry_after_s({"retry-after": text}) == seconds


def test_details_are_cut_to_1024_bytes_of_whole_characters() -> None:
    """A long text ends at a character, whatever it holds."""
    assert answers.cut("é" * 2000) == "é" * 512
    assert answers.cut("a" + "😀" * 2000) == "a" + "😀" * 255
    assert answers.cut("\ud800x") == "?x"


MALFORMED = {
    "too short": {"results": [{"status": 200, "outcome": "done"}] * 3},
    "too long": {"results": [{"status": 200, "outcome": "done"}] * 5},
    "null entry": {"results": [{"status": 200, "outcome": "done"}] * 3 + [None]},
    "text as status": {"results": [{"status": 200, "outcome": "done"}] * 3 + [{"status": "200", "outcome": "done"}]},
    "unknown status": {"results": [{"status": 200, "outcome": "done"}] * 3 + [{"status": 299, "outcome": "done"}]},
    "unknown outcome": {"results": [{"status": 200, "outcome": "done"}] * 3 + [{"status": 200, "outcome": "perhaps"}]},
    "no outcome": {"results": [{"status": 200, "outcome": "done"}] * 3 + [{"status": 200}]},
    "wrong key": {"result": [{"status": 200, "outcome": "done"}] * 4},
    "null": None,
    "not JSON": b"OK",
}


@pytest.mark.parametrize("status", [200, 207])
@pytest.mark.parametrize("kind", MALFORMED)
def test_L20_a_malformed_answer_to_a_batch_is_no_answer(kind: str, status: int) -> None:
    """What is not one known result for each event says nothing of any of them."""
    body = MALFORMED[kind]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = answers.of_batch(httpx.Response(status, content=content), 4)
    assert isinstance(found, answers.Answer)
    assert found.kind is Kind.LOST


def test_results_of_a_batch_are_read_event_by_event() -> None:
    """Each entry says whose fault it was, and when to come again."""
    entries = [
        {"status": 200, "outcome": "done"},
        {"status": 200, "outcome": "duplicate"},
        {"status": 422, "outcome": "refused", "code": "bad", "detail": "x" * 2000},
        {"status": 503, "retry_after_s": 2},
        {"status": 500},
    ]
    found = answers.of_batch(httpx.Response(207, json={"results": entries}), 5)
    assert isinstance(found, list)
    assert [answer.kind for answer in found] == [Kind.DONE, Kind.DONE, Kind.REFUSED, Kind.AWAY, Kind.COUNTED]
    assert (found[2].code, len(found[2].detail), found[3].retry_after_s) == ("bad", 1024, 2)
