"""Every record, however odd, is delivered or dead-lettered; none stops its partition and none is dropped."""

import base64
import json

import pytest

from tests import controls
from tests.source import sinks
from tests.source.conftest import Group, StartSource


def event_headers(**changes: str | bytes | None) -> list[tuple[str, str | bytes | None]]:
    """Record headers of a CloudEvent in binary mode."""
    attributes: dict[str, str | bytes | None] = {"ce_specversion": "1.0", "ce_id": "id-1", "ce_type": "my.type", "ce_source": "/my/src"}
    return [*(attributes | changes).items()]


def test_a_plain_record_is_wrapped_as_knative_does(group: Group, start_source: StartSource) -> None:
    """No CloudEvents headers: the attributes of KafkaSource, its headers, and ours (kafkatopic)."""
    group.produce(b'{"a": 1}', key=b"user-1", headers=[("X-Tenant", b"acme"), ("Content-Type", b"Application/JSON"), ("trace_id", b"abc")])
    start_source(group, ceOverrides={"extensions": {"kafkatopic": group.topic, "team": "shop"}})
    group.wait_committed(1)
    (request,) = group.sink.requests
    (event,) = request.events
    assert {name: text for name, text in event.attributes.items() if name != "time"} == {
        "specversion": "1.0",
        "id": "partition:0/offset:0",
        "source": f"/apis/v1/namespaces/default/kafkasources/{group.name}#{group.topic}",
        "type": "dev.knative.kafka.event",
        "subject": "partition:0#0",
        "key": base64.b64encode(b"user-1").decode(),
        "partitionkey": base64.b64encode(b"user-1").decode(),
        "kafkaheaderxtenant": "acme",
        "kafkaheadertraceid": "abc",
        "kafkatopic": group.topic,
        "team": "shop",
        "knativekafkapartition": "0",
        "knativekafkaoffset": "0",
    }
    assert event.attributes["time"].endswith("Z")
    assert request.headers["content-type"] == "application/json"
    assert (request.headers["prefer"], request.headers["kn-namespace"]) == ("reply", "default")
    assert request.body == b'{"a": 1}'


def test_a_cloudevent_passes_through(group: Group, start_source: StartSource) -> None:
    """Attributes and extensions of a CloudEvent arrive unchanged, the key is not mapped, other record headers are left out."""
    headers = event_headers(ce_subject="sub", ce_myext="ev")
    group.produce(
        b'{"b":2}',
        key=b"k",
        headers=[*headers, ("content-type", "application/json"), ("other", b"x"), ("traceparent", controls.TRACEPARENT)],
    )
    start_source(group)
    group.wait_committed(1)
    (request,) = group.sink.requests
    assert request.events[0].attributes == {
        "specversion": "1.0", "id": "id-1", "type": "my.type", "source": "/my/src", "subject": "sub", "myext": "ev",
        "knativekafkapartition": "0", "knativekafkaoffset": "0",
    }  # fmt: skip
    assert request.headers["traceparent"] == controls.TRACEPARENT
    assert request.headers["content-type"] == "application/json"


def test_a_structured_record_is_sent_in_binary_mode(group: Group, start_source: StartSource) -> None:
    """A CloudEvent in JSON arrives as ce- headers and its data; a broken one counts as a plain record, byte for byte."""
    whole = {"specversion": "1.0", "id": "7", "type": "t", "source": "/s", "datacontenttype": "application/json", "n": 7, "data": {"x": 1}}
    group.produce(
        json.dumps(whole).encode(), b'{"specversion": "1.0", "id": 7}', headers=[("content-type", "application/cloudevents+json")]
    )
    start_source(group)
    group.wait_committed(2)
    first, second = group.sink.requests
    assert (first.headers["ce-id"], first.headers["ce-n"], first.headers["content-type"]) == ("7", "7", "application/json")
    assert json.loads(first.body) == {"x": 1}
    assert second.headers["ce-type"] == "dev.knative.kafka.event"
    assert second.body == b'{"specversion": "1.0", "id": 7}'


@pytest.mark.parametrize("size", [1, 10])
def test_O14_a_tombstone_is_delivered_without_data(group: Group, start_source: StartSource, size: int) -> None:
    """A null value and an empty value, with and without a key, each arrive and stay apart; a refused one keeps its null in the letter."""
    group.produce(None, b"", key=b"k")
    group.produce(None, b"")
    group.produce(b"1")
    group.sink.script = sinks.each(lambda event: sinks.refuse() if event.data is None else sinks.OK)
    start_source(group, size=size)
    group.wait_committed(5)
    assert sorted((event.offset, event.data) for event in group.sink.events if event.data is not None) == [(1, b""), (3, b""), (4, b"1")]
    assert sorted((letter["offset"], letter["value"]) for letter in group.failed) == [(0, None), (2, None)]


@pytest.mark.parametrize("size", [1, 10])
def test_L15_odd_records_are_all_delivered(group: Group, start_source: StartSource, size: int) -> None:
    """Bytes that are no JSON, cut JSON, a binary key, null and broken headers, control characters: each arrives, its bytes unchanged."""
    values = [b"\xff\xfe\x00", b'{"cut": ', b"Obj\x01", b'{"a": "\xff"}', b"NaN", b"[" * 5000 + b"]" * 5000]
    group.produce(*values, key=b"\x00\n\xff")
    group.produce(b'{"n": 1}', headers=event_headers(ce_subject="line\nbreak", ce_myext=b"\xff\xfe", ce_nothing=None, ce_emoji="é中😀"))
    group.produce(b'{"n": 2}', headers=[("a", None), ("b\r\n", b"\x00"), ("", b"")])
    group.produce(b'{"n": 3}', headers=event_headers(ce_id=None))
    start_source(group, size=size)
    group.wait_committed(len(values) + 3)
    found = {event.offset: event for event in group.sink.events}
    assert [found[n].data for n in range(len(values))] == values
    assert found[0].attributes["key"] == base64.b64encode(b"\x00\n\xff").decode()
    odd = found[len(values)].attributes
    assert (odd["subject"], odd["emoji"], "nothing" in odd) == ("line\nbreak", "é中😀", False)
    assert found[len(values) + 1].attributes["kafkaheaderb"] == "\x00"
    assert found[len(values) + 2].attributes["type"] == "dev.knative.kafka.event"
    assert group.failed == []


def test_L15_an_undecodable_record_gets_one_letter_and_the_partition_goes_on(group: Group, start_source: StartSource) -> None:
    """One letter for the bad one, whose bytes come back exactly; lag 0."""

    def answer(event: sinks.Event) -> sinks.Reply:
        try:
            return sinks.OK if event.json is not None else sinks.refuse()
        except ValueError:
            return sinks.refuse("unreadable")

    group.sink.script = sinks.each(answer)
    group.produce(b'{"n": 1}', b'{"event_id": "cut', b'{"n": 2}')
    start_source(group, size=10)
    group.wait_committed(3)
    assert [base64.b64decode(letter["value"]) for letter in group.failed] == [b'{"event_id": "cut']


def test_a_value_that_is_json_stands_in_the_batch_as_it_is(group: Group, start_source: StartSource) -> None:
    """Byte for byte: no number is rounded and no key is sorted on the way."""
    value = b'{"amount": 1.0000000000000000001, "a":[ 1,2 ],"z":null}'
    group.produce(value, value)
    start_source(group, size=2)
    group.wait_committed(2)
    assert group.sink.requests[0].body.count(b'"data":' + value) == 2


def test_text_of_another_type_is_not_taken_for_json(group: Group, start_source: StartSource) -> None:
    """`"abc"` as text/plain is five characters, not a JSON string of three."""
    group.produce(b'"abc"', b'"abc"', headers=[("content-type", "text/plain")])
    start_source(group, size=2)
    group.wait_committed(2)
    assert [event.data for event in group.sink.events] == [b'"abc"'] * 2


def test_a_record_of_1_MB_is_delivered(group: Group, start_source: StartSource) -> None:
    """Records at the broker's limit travel alone and together, in requests below 8 MiB."""
    sized = [json.dumps({"n": n, "fill": "x" * 1_000_000}).encode() for n in range(10)] + [b"\x00" * 1_000_000] * 2
    group.produce(*sized)
    start_source(group, size=500)
    group.wait_committed(12)
    assert sorted(group.sink.offsets) == list(range(12))
    assert max(len(request.body) for request in group.sink.requests) < 8 << 20


def test_an_attribute_named_data_does_not_replace_the_data(group: Group, start_source: StartSource) -> None:
    """`ce_data` and `ce_data_base64` are no attributes of CloudEvents, and what they say is not taken for the value."""
    group.produce(b'{"n": 1}', b'{"n": 2}', headers=event_headers(ce_data="evil", ce_data_base64="ZXZpbA=="))
    start_source(group, size=2)
    group.wait_committed(2)
    assert [event.json["n"] for event in group.sink.events] == [1, 2]
