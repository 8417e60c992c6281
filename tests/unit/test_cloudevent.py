"""An HTTP request is read as CloudEvents, or refused with the reason."""

import base64
import contextlib
import json

import pytest
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from shared import cloudevent, errors
from tests import controls


def read(request: dict[str, object]) -> cloudevent.Delivery:
    headers = request["headers"]
    content = request["content"]
    assert isinstance(headers, dict)
    assert isinstance(content, bytes)
    return cloudevent.read_one(headers, content)


def batch(*elements: object) -> list[cloudevent.Read]:
    return cloudevent.read_batch(json.dumps(elements).encode(), 100)


def test_binary_mode_gives_the_data_byte_for_byte_and_what_came_beside_it() -> None:
    payload = controls.paid()
    delivery = read(controls.binary(payload, b'{"any": "bytes"', traceparent=controls.TRACEPARENT))
    assert delivery.payload == b'{"any": "bytes"'
    assert delivery.id == payload["event_id"]
    context = delivery.context
    assert ("correlation-1", controls.TRACEPARENT) == (context.correlation_id, context.traceparent)
    assert ("order.payment.completed", 3) == (context.topic, context.partition)


def test_O13_an_offset_above_2_to_the_31_is_carried() -> None:
    assert read(controls.binary(controls.paid())).context.offset == 3_000_000_000
    assert read(controls.structured(controls.paid(), knativekafkaoffset=3_000_000_000)).context.offset == 3_000_000_000


@pytest.mark.parametrize("name", ["id", "type", "source"])
def test_an_event_without_a_required_attribute_is_no_cloudevent(name: str) -> None:
    with pytest.raises(errors.NotACloudEvent, match=rf"^{name}:"):
        read(controls.binary(controls.paid(), **{name: ""}))


@pytest.mark.parametrize("version", ["", "0.3", "2.0"])
def test_only_version_1_0_is_read(version: str) -> None:
    with pytest.raises(errors.NotACloudEvent, match=r"^specversion:"):
        read(controls.binary(controls.paid(), specversion=version))


def test_a_request_without_any_sign_of_cloudevents_is_none() -> None:
    with pytest.raises(errors.NotACloudEvent):
        cloudevent.read_one({"content-type": "application/json"}, b"{}")


def test_data_that_is_not_json_is_an_unsupported_media_type() -> None:
    request = controls.binary(controls.paid())
    request["headers"]["content-type"] = "application/xml"
    with pytest.raises(errors.UnsupportedMediaType, match="application/xml"):
        read(request)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/json", "application/vnd.x+json", ""])
def test_any_json_media_type_or_none_is_read(content_type: str) -> None:
    request = controls.binary(controls.paid())
    request["headers"]["content-type"] = content_type
    assert read(request).type == "order.payment.completed"


def test_an_avro_envelope_is_an_unsupported_media_type() -> None:
    with pytest.raises(errors.UnsupportedMediaType):
        cloudevent.read_one({"content-type": "application/cloudevents+avro"}, b"x")


def test_ce_headers_come_before_a_content_type_that_the_broken_record_had() -> None:
    request = controls.plain(controls.paid())
    request["headers"]["content-type"] = controls.BATCH
    assert not cloudevent.is_batch(request["headers"])
    assert read(request).plain


def test_structured_mode_may_hold_its_data_in_base64() -> None:
    element = controls.attributes(controls.paid()) | {"data_base64": base64.b64encode(b"{}").decode()}
    assert cloudevent.read_one({"content-type": controls.STRUCTURED}, json.dumps(element).encode()).payload == b"{}"


def test_a_bad_element_of_a_batch_is_a_refusal_of_its_own() -> None:
    good = controls.element(controls.paid())
    read_ones = batch(good, {"id": 4}, 5, good | {"data_base64": "?"}, good)
    assert [True, False, False, False, True] == [isinstance(one, cloudevent.Delivery) for one in read_ones]
    assert all(isinstance(one, errors.NotACloudEvent) for one in read_ones[1:4])


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b"\xff", b"[" * 100_000])
def test_a_batch_that_is_no_array_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(errors.NotACloudEvent):
        cloudevent.read_batch(body, 100)


def test_a_batch_of_too_many_events_is_too_large() -> None:
    with pytest.raises(errors.TooLarge, match=r"more than 100 events"):
        batch(*[controls.element(controls.paid())] * 101)


@pytest.mark.parametrize("header", ["bestellung-é", "bestellung-%C3%A9", "bestellung-\u00c3\u00a9"])
def test_an_id_is_recognised_in_every_way_a_header_may_hold_it(header: str) -> None:
    assert read(controls.binary(controls.paid(), id=header)).names("bestellung-é")


def test_an_id_that_a_kafkasource_could_not_write_as_latin_1_is_recognised() -> None:
    assert read(controls.binary(controls.paid(), id="order-??")).names("order-中文")
    assert not read(controls.binary(controls.paid(), id="order-??")).names("other-中文")


def test_a_place_in_a_topic_is_no_id() -> None:
    assert read(controls.plain(controls.paid())).names("whatever the payload says")


@pytest.mark.parametrize("trace", ["garbage", "00-x-y-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nx: y"])
def test_a_traceparent_that_is_none_is_left_behind(trace: str) -> None:
    assert read(controls.structured(controls.paid(), traceparent=trace)).context.traceparent is None


@pytest.mark.parametrize("convert", [to_binary, to_structured])
def test_what_the_sdk_writes_is_read_the_same(convert) -> None:  # type: ignore[no-untyped-def]
    payload = controls.paid()
    headers, body = convert(CloudEvent(controls.attributes(payload) | {"datacontenttype": "application/json"}, payload))
    delivery = cloudevent.read_one({name.lower(): value for name, value in headers.items()}, body)
    assert json.loads(delivery.payload) == payload
    assert (payload["event_id"], payload["event_type"]) == (delivery.id, delivery.type)


@given(
    st.binary(max_size=300),
    st.dictionaries(st.sampled_from(["ce-id", "ce-type", "ce-source", "ce-specversion", "content-type"]), st.text()),
)
def test_whatever_comes_is_read_or_refused(body: bytes, headers: dict[str, str]) -> None:
    for reading in (lambda: cloudevent.read_one(headers, body), lambda: cloudevent.read_batch(body, 10)):
        with contextlib.suppress(errors.Refused):
            assert reading() is not None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_whatever_json_a_batch_holds_each_element_gets_an_answer(value: object) -> None:
    body = json.dumps([value, controls.element(controls.paid())]).encode()
    found = cloudevent.read_batch(body, 10)
    assert len(found) == 2
    assert isinstance(found[1], cloudevent.Delivery)
