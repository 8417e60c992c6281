"""Our formats and those of the CloudEvents SDK are the same, and the published schemas describe both."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest
import yaml
from cloudevents import kafka
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent, from_http, from_json
from confluent_kafka import Message

from connectors.kafka_source import manifest, partition, plan
from connectors.kafka_source.record import Envelope, Record
from functions.dlq_router import failed, letter
from ops import contracts, home, letters, specimens
from shared import cloudevent, config, errors, events
from tests import controls

CHAIN = events.Context(correlation_id="first-1", causation_id="cause-1", traceparent=controls.TRACEPARENT)
PAID = events.OrderPaid.model_validate(controls.paid()).within(CHAIN)
ASSEMBLED = events.OrderAssembled.caused_by(PAID, consumer="assembly-service", occurred_at=datetime(2026, 1, 31, 12, tzinfo=UTC))
OURS = pytest.mark.parametrize("event", [PAID, ASSEMBLED], ids=lambda event: type(event).__name__)


def schema(name: str) -> jsonschema.Draft202012Validator:
    found = json.loads((contracts.SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found, format_checker=jsonschema.FormatChecker())


def record(event: events.Event) -> kafka.KafkaMessage:
    headers = {name: value.encode() for name, value in event.headers().items()}
    return kafka.KafkaMessage(headers, event.order_id.encode(), event.value())


def delivered(headers: Sequence[tuple[str, bytes | None]], key: bytes | None, value: bytes | None) -> tuple[dict[str, str], bytes, bytes]:
    """The request, and the batch element, that our source makes of a record: HTTP headers, body, element."""
    documents = manifest.read(home.CHECKOUT / "infra" / "knative" / "sources.yaml", ["assembly-on-payment"])
    (source,) = plan.sources(documents, config.Settings(sink_url_template="http://127.0.0.1:9/{name}"))
    message = Message(
        topic="t", partition=3, offset=3_000_000_000, key=key, value=value, headers=list(headers), timestamp=(1, 1_700_000_000_123)
    )
    of, envelope = partition.Partition("t", 3, 0, None), Envelope(source)
    http, body = envelope.request(Record(message, of, 3_000_000_000, 0.0))
    element = envelope.element(Record(message, of, 3_000_000_000, 0.0))
    return {name.decode().lower(): text.decode("latin-1") for name, text in http}, body or b"", element


def same(found: cloudevent.Delivery, event: events.Event) -> None:
    assert found.names(event.event_id)
    assert (found.type, found.payload) == (event.event_type, event.value())
    assert (found.context.correlation_id, found.context.causation_id) == (event.context.correlation_id, event.context.causation_id)
    assert events.read(found.payload, events.known()).value() == event.value()


@OURS
def test_the_sdk_reads_our_record_as_the_same_event(event: events.Event) -> None:
    found = kafka.from_binary(record(event))

    attributes = {name: found[name] for name in ("specversion", "id", "type", "source", "subject", "time", "correlationid", "causationid")}
    assert attributes == {
        "specversion": "1.0",
        "id": event.event_id,
        "type": event.event_type,
        "source": event.SOURCE,
        "subject": event.order_id,
        "time": json.loads(event.value())["occurred_at"],
        "correlationid": event.context.correlation_id,
        "causationid": event.context.causation_id,
    }
    assert found["partitionkey"] == event.order_id.encode()
    assert found["datacontenttype"] == "application/json"
    assert found.get_data() == json.loads(event.value())


@OURS
def test_the_sdk_reads_what_our_source_makes_of_our_record_alone_and_in_a_batch(event: events.Event) -> None:
    headers, body, element = delivered(list(record(event).headers.items()), event.order_id.encode(), event.value())

    for found in (from_http(headers, body), from_json(element)):
        assert (found["id"], found["type"], found["subject"]) == (event.event_id, event.event_type, event.order_id)
        assert found.get_data() == json.loads(event.value())
    same(cloudevent.read_one(headers, body), event)
    (of_batch,) = cloudevent.read_batch(b"[" + element + b"]", 10)
    assert isinstance(of_batch, cloudevent.Delivery)
    same(of_batch, event)


@OURS
@pytest.mark.parametrize("convert", [to_binary, to_structured])
def test_we_read_what_the_sdk_writes_as_the_same_event(event: events.Event, convert: Any) -> None:
    attributes = {name.removeprefix("ce_"): value for name, value in event.headers().items() if name.startswith("ce_")}
    written = CloudEvent(attributes | {"datacontenttype": "application/json"}, json.loads(event.value()))

    headers, body = convert(written)

    found = cloudevent.read_one({name.lower(): value for name, value in headers.items()}, body)
    assert found.names(event.event_id)
    assert events.read(found.payload, events.known()).value() == event.value()
    assert (found.context.correlation_id, found.context.causation_id) == ("first-1", event.context.causation_id)


@OURS
def test_our_source_reads_a_record_that_the_sdk_wrote_in_structured_mode(event: events.Event) -> None:
    found = kafka.from_binary(record(event))
    written = kafka.to_structured(found, key_mapper=lambda event: event["subject"].encode(), envelope_marshaller=_text)

    headers, body, _ = delivered([("content-type", b"application/cloudevents+json")], written.key, written.value)

    assert events.read(cloudevent.read_one(headers, body).payload, events.known()).value() == event.value()


def _text(attributes: dict[str, Any]) -> str:
    return json.dumps({name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()})


@OURS
def test_an_event_made_by_hand_is_the_record_that_our_outbox_publishes(event: events.Event) -> None:
    attributes = {name: value for name, value in kafka.from_binary(record(event)).get_attributes().items() if name != "partitionkey"} | {
        "partitionkey": event.order_id,
        "traceparent": controls.TRACEPARENT,
    }

    made = specimens.record(CloudEvent(attributes, json.loads(event.value())))

    assert {name: value.decode() for name, value in made.headers} == event.headers()
    assert (made.key, made.value) == (event.order_id.encode(), event.value())


@pytest.mark.parametrize(
    "extra",
    [{}, {"datacontenttype": None}, {"sequence": 7, "knativekafkaoffset": 2_000_000_000, "sampled": True}],
    ids=["no content type", "a null content type", "whole numbers as extensions"],
)
def test_O15_an_event_without_a_content_type_or_with_whole_numbers_goes_all_the_way(extra: dict[str, Any]) -> None:
    whole = {"specversion": "1.0", "id": PAID.event_id, "type": PAID.event_type, "source": "/elsewhere", "data": json.loads(PAID.value())}
    body = json.dumps(whole | extra).encode()

    (event,), _ = specimens.read(body)
    by_hand = specimens.record(event)
    headers, content, element = delivered(by_hand.headers, by_hand.key, by_hand.value)
    failure = failed.Failed("t", by_hand.value, by_hand.key, by_hand.headers, 0, 1, exact=True)
    written = letter.write(failure, "assembly-service", now=datetime.now(UTC), bytes_max=1 << 20)

    by_http = [specimens.request(event, binary=binary) for binary in (False, True)]
    requests = [(headers, content), ({"content-type": specimens.STRUCTURED}, element), *by_http]
    for found in (cloudevent.read_one(*request) for request in requests):
        assert events.read(found.payload, events.known()).value() == PAID.value()
    assert json.loads(written.value)["event_id"] == PAID.event_id
    assert letter.original(json.loads(written.value)) == (by_hand.key, by_hand.value, by_hand.headers)


@pytest.mark.parametrize("payload", [controls.paid(), controls.assembled(), controls.without(controls.paid(), "event_version")])
def test_the_example_of_every_event_fits_its_schema(payload: dict[str, Any]) -> None:
    schema(payload["event_type"]).validate(payload)


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": ""},
        {"event_id": "x" * 129},
        {"event_id": "a\nb"},
        {"event_id": 7},
        {"order_id": None},
        {"user_id": "\x7f"},
        {"event_type": "order.lost"},
        {"event_version": 2},
        {"event_version": "1"},
        {"amount": -1},
        {"amount": 10**15 + 1},
        {"amount": 1.5},
        {"amount": "1"},
        {"payment_method": ""},
    ],
)
def test_a_schema_refuses_what_the_model_refuses(change: dict[str, Any]) -> None:
    payload = controls.paid(**change)

    with pytest.raises(errors.Refused):
        events.read(json.dumps(payload).encode(), events.known())
    assert not schema("order.payment.completed").is_valid(payload)


@pytest.mark.parametrize("field", ["event_id", "event_type", "occurred_at", "order_id", "user_id", "amount", "payment_method"])
def test_a_schema_needs_the_fields_that_the_model_needs(field: str) -> None:
    payload = controls.without(controls.paid(), field)

    with pytest.raises(errors.Refused, match=field):
        events.read(json.dumps(payload).encode(), events.known())
    assert not schema("order.payment.completed").is_valid(payload)


def test_unknown_fields_are_for_a_reader_to_ignore() -> None:
    payload = controls.paid(voucher={"code": "x"})

    assert schema("order.payment.completed").is_valid(payload)
    assert events.read(json.dumps(payload).encode(), events.known()).event_id == payload["event_id"]


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"order-1", PAID.value(), tuple((name, value.encode()) for name, value in PAID.headers().items())),
        (None, None, ()),
        (b"\xff\x00", b"\xff", (("h", None), ("h", b"\x00"))),
        (b"k", b"x" * 40_000, tuple(("", b"") for _ in range(5_000))),
    ],
    ids=["an event", "a tombstone", "binary", "many headers"],
)
def test_a_letter_fits_its_schema_and_has_the_fields_of_its_model(key: bytes | None, value: bytes | None, headers: failed.Headers) -> None:
    record = failed.Failed("t", value, key, headers, 0, 1, 1_700_000_000_000, 422, "invalid_event", "bad", attempts=1, exact=True)

    written = letter.write(record, "assembly-service", now=datetime.now(UTC), bytes_max=100_000)

    body = json.loads(written.value)
    schema("dead-letter").validate(body)
    assert body.keys() - {"original_headers_packed"} == letters.DeadLetter.model_fields.keys() - {"original_headers_packed"}
    assert str(letters.DeadLetter.model_validate_json(written.value).letter_id) == written.letter_id


@OURS
def test_our_headers_are_those_that_asyncapi_describes(event: events.Event) -> None:
    document = yaml.safe_load((home.CHECKOUT / "contracts" / "asyncapi.yaml").read_text(encoding="utf-8"))
    described = document["components"]["messageTraits"]["cloudEvent"]["headers"]

    jsonschema.Draft7Validator(described, format_checker=jsonschema.FormatChecker()).validate(event.headers())


def test_no_contract_names_a_place_on_somebodys_machine() -> None:
    for path in (home.CHECKOUT / "contracts").rglob("*"):
        if path.is_file():
            assert not re.search(r"/home/|/root/|/work/|registry", path.read_text(encoding="utf-8")), path
