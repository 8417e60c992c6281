"""Whatever is delivered is refused by name, or can be stored and published again as it is."""

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzz import promises, targets
from shared import cloudevent, errors, events
from tests import controls

ODD = [
    "",
    " ",
    "\x00",
    "\x7f",
    "\u2028",
    "\ud800",
    "\udfff\ud800",
    "%",
    "%00",
    "%zz",
    "%C3%28",
    "é",
    "中",
    "😀",
    "a\r\nb: c",
    "'; --",
    "x" * 200,
]
texts = st.sampled_from(ODD) | st.text(st.characters(codec=None), max_size=20) | st.text(st.characters(max_codepoint=255), max_size=140)
numbers = st.sampled_from(
    [
        "0", "-0", "-1", "1e400", "-1e400", "1e-400", "1.0", "1E5", "NaN", "Infinity", "-Infinity", str(2**63), str(-(2**63) - 1),
        "9" * 100_000, "01", f"0.{'1' * 5000}", "1e999999999", "true", "null", '"7"',
    ]
)  # fmt: skip
times = st.sampled_from(
    [
        "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "10000-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "1969-12-31T23:59:59Z",
        "2016-12-31T23:59:60Z", "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00", "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00.12345678901234567890Z", "2026-01-01T00:00:00.Z", "2026-01-01t00:00:00z", "2026-01-01 00:00:00-00:00",
        "2026-01-01T00:00:00+05:30:15", "２０２６-01-01T00:00:00Z", "1", "1e10", "",
    ]
)  # fmt: skip


# The same inputs in every run: `make fuzz` is where others are looked for. How fast they are drawn is up to the machine.
steady = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def element(base: controls.Payload, changes: dict[str, str]) -> str:
    """The JSON of a payload, in which each of `changes` stands as it is written, behind the field that it repeats."""
    return (
        "{"
        + ", ".join([*(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in base.items()), *(f'"{k}": {v}' for k, v in changes.items())])
        + "}"
    )


written = numbers | times.map(json.dumps) | texts.map(json.dumps)
fields = st.sampled_from([*controls.paid(), "more"])
payloads = st.tuples(
    st.sampled_from([controls.paid(event_id="e", order_id="o"), controls.assembled(event_id="e", order_id="o")]),
    st.dictionaries(fields, written, max_size=2),
).map(lambda drawn: element(*drawn))


@steady
@given(payloads)
def test_a_payload_of_odd_values_is_refused_or_kept_as_it_is(payload: str) -> None:
    body = payload.encode()
    try:
        event = events.read(body, events.known())
    except errors.Refused as refusal:
        promises.refused(refusal)
        code, place = refusal.code, refusal.place
    else:
        promises.event(event)
        code, place = "unreadable", ""
    assert place if code in {"invalid_event", "unknown_type", "unsupported_version"} else code == "unreadable"
    promises.same(reading(body, events.read), reading(body, events.read_with_care))


def reading(body: bytes, read: Any) -> object:
    try:
        return read(body, events.known())
    except errors.Refused as refusal:
        return refusal.detail, refusal.code, refusal.place


names = st.sampled_from(["specversion", "id", "type", "source", "time", "correlationid", "traceparent", "kafkatopic", "knativekafkaoffset"])


@steady
@given(
    st.dictionaries(names, st.text(st.characters(max_codepoint=255), max_size=30) | st.sampled_from(["%00", "1.0", "", "９", "9" * 30])),
    payloads,
    st.sampled_from(
        ["", "application/json", "application/json;charset=é", "application/cloudevents+json", "APPLICATION/CLOUDEVENTS-BATCH+JSON; x"]
    ),
)
def test_headers_in_every_encoding_are_read_or_refused(changes: dict[str, str], payload: str, content_type: str) -> None:
    base = controls.binary(controls.paid(event_id="e", order_id="o"), payload.encode(), **changes)["headers"]
    lines = [f"{name}: {value}".encode("latin-1", "replace") for name, value in (base | {"content-type": content_type}).items()]
    targets.cloudevent_request(b"\n".join(lines).replace(b"\n\n", b"\n") + b"\n\n" + payload.encode())


@steady
@given(st.lists(payloads | texts.map(json.dumps) | numbers, max_size=4), st.dictionaries(names, written, max_size=2), st.booleans())
@example([], {"id": '"\\ud800"'}, True)
@example([], {"knativekafkaoffset": "9" * 100_000}, True)
def test_a_batch_of_odd_elements_has_a_result_for_each(found: list[str], changes: dict[str, str], wrapped: bool) -> None:
    around = controls.attributes(controls.paid(event_id="e", order_id="o")) | {"datacontenttype": controls.JSON}
    elements = [element(around, changes | {"data": each}) if wrapped else each for each in found]
    promises.batch(f"[{', '.join(elements)}]".encode())


@pytest.mark.parametrize("read", [cloudevent.read_one, lambda headers, body: cloudevent.read_batch(body, 5)])
@pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"a":' * 100_000, b'[{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}]"])
def test_what_is_nested_without_end_is_refused(read: Any, deep: bytes) -> None:
    with pytest.raises(errors.NotACloudEvent):
        read({"content-type": controls.STRUCTURED}, deep)


@pytest.mark.parametrize("elements", [6, 100_000])
@pytest.mark.parametrize("one", [b"0", b"{}", b'{"specversion":"1.0","id":"1","type":"t","source":"s","data":{}}'])
def test_a_batch_of_too_many_is_refused_however_its_elements_are(elements: int, one: bytes) -> None:
    with pytest.raises(errors.TooLarge, match="more than 5 events"):
        cloudevent.read_batch(b"[" + b",".join([one] * elements) + b"]", 5)


def test_a_batch_with_a_bad_element_may_have_as_many_as_are_taken() -> None:
    good = json.dumps(controls.element(controls.paid())).encode()
    read = cloudevent.read_batch(b"[" + b",".join([good, b"null", good]) + b"]", 3)
    assert [True, False, True] == [isinstance(each, cloudevent.Delivery) for each in read]


@pytest.mark.parametrize("amount", [-1, 10**15 + 1, 2**63, 10**4000, 1.5, math.inf, math.nan, "7", True, None])
def test_an_amount_that_is_none_is_refused_by_name(amount: object) -> None:
    with pytest.raises(errors.Refused) as refused:
        events.read(json.dumps(controls.paid(amount=amount)).encode(), events.known())
    assert refused.value.place == "amount"
