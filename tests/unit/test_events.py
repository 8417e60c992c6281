"""An event is read the same by the short way and by the long one, whatever the payload."""

import copy
import json
from datetime import UTC, datetime
from typing import Annotated, Any

import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared import errors, events, shortcut
from tests import controls

YEARS = range(1970, 9999)
texts = (
    st.text(max_size=130)
    | st.text(st.characters(codec="ascii"), min_size=1, max_size=130)
    | st.sampled_from(["", "x" * 129, "\x7f", "\x85"])
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
times = st.datetimes().map(lambda moment: moment.isoformat() + "Z") | st.from_regex(
    r"[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{1,9})?([Zz]|[+-][0-2][0-9]:[0-5][0-9])?", fullmatch=True
)
values = {
    "event_id": texts,
    "event_type": st.sampled_from(["order.payment.completed", "order.assembly.completed", "another"]),
    "event_version": st.sampled_from([0, 1, 2, 1.0, True, "1", None]),
    "occurred_at": times,
    "order_id": texts,
    "user_id": texts,
    "amount": st.integers(-1, 10**15 + 1) | st.floats(0, 10),
    "payment_method": texts,
    "more": st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)),
}
changes = st.fixed_dictionaries({}, optional={name: value | scalars for name, value in values.items()})
examples = st.sampled_from(
    [
        controls.paid(event_id="e", order_id="o"),
        controls.assembled(event_id="e", order_id="o"),
        controls.assembled(event_id="e", order_id="o") | {"later": "x", "n": 12, "f": -1.5e3, "b": True},
    ]
)


def outcome(payload: bytes, *, short: bool) -> object:
    try:
        event = (events.read if short else events.read_with_care)(payload, events.known())
    except errors.Refused as refusal:
        return type(refusal), refusal.detail, refusal.code, refusal.place
    kinds = [type(value) for value in event.__dict__.values()]
    return event, kinds, event.occurred_at.utcoffset(), event.model_fields_set, event.value(), repr(event), event.headers()


@given(examples, changes, st.booleans(), st.sampled_from([None, 1]), st.sets(st.sampled_from(sorted(values))))
def test_a_payload_of_any_values_is_read_the_same_both_ways(
    base: controls.Payload, changed: controls.Payload, ascii_only: bool, indent: int | None, left_out: set[str]
) -> None:
    text = json.dumps(controls.without(base | changed, *left_out), ensure_ascii=ascii_only, indent=indent)
    payload = text.encode("utf-8", "surrogatepass")
    assert outcome(payload, short=True) == outcome(payload, short=False)


@given(
    examples,
    st.lists(
        st.tuples(
            st.integers(0, 400),
            st.integers(0, 3),
            st.binary(max_size=6) | st.sampled_from([b'"', b"\\", b",", b"0", b" ", b"-", b"{", b"e1"]),
        ),
        max_size=3,
    ),
)
def test_a_payload_that_was_damaged_is_read_the_same_both_ways(base: controls.Payload, damages: list[tuple[int, int, bytes]]) -> None:
    payload = json.dumps(base).encode()
    for place, length, put in damages:
        payload = payload[:place] + put + payload[place + length :]
    assert outcome(payload, short=True) == outcome(payload, short=False)


@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"event_id":1,' * 100_000)
def test_bytes_of_any_kind_are_read_the_same_both_ways(payload: bytes) -> None:
    assert outcome(payload, short=True) == outcome(payload, short=False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"user-7"', b'"user-7", "user_id": "user-8"'),
        (b'"user-7"', b'"user-7", "user\\u005fid": "user-8"'),
        (b'"user-7"', b'"user-7", "note": "\\ud800"'),
        (b'"user-7"', b'"user-7", "note": ' + b"9" * 5000),
        (b'"user-7"', b'"user-7", "note": ' + b"[" * 300 + b"]" * 300),
        (b'"user-7"', b'"user-7", "note": NaN'),
        *(
            (b'"user-7"', b'"user-7", "note": ' + value)
            for value in (b"01", b"-0", b"1.", b".5", b"1e", b"+1", b"1E400", b"-", b"9" * 3600, b"nul", b'""""')
        ),
        *((b'"user-7"', b'"user-7", ' + key) for key in (b'"":1', b'"a":1,"a":"2"', b"a:1", b'"a"', b'"a":1,')),
        (b'"user-7"', b'"user-\xff"'),
        (b'"event_version": 1', b'"event_version": -0'),
        (b'"event_version": 1', b'"event_version": 1e0'),
        (b'"event_version": 1', b'"event_version": 01'),
        (b'"event_version": 1', b'"event_version": 18446744073709551617'),
        (b"2026-11-24T12:00:10Z", b"2026-11-24T12:00:10.9999999Z"),
        (b"2026-11-24T12:00:10Z", b"2026-11-24T24:00:00Z"),
        (b"2026-11-24T12:00:10Z", b"2026-11-24T23:59:60Z"),
        (b"2026-11-24T12:00:10Z", b"2026-02-30T12:00:10Z"),
        (b"2026-11-24T12:00:10Z", b"9999-11-24T12:00:10Z"),
        (b"2026-11-24T12:00:10Z", "２０２６-11-24T12:00:10Z".encode()),
        (b"}", b"} "),
        (b"}", b"}}"),
        (b"}", b",}"),
        (b"{", b"\xef\xbb\xbf{"),
    ],
)
def test_what_readers_of_json_differ_in_is_read_the_same_both_ways(old: bytes, new: bytes) -> None:
    payload = json.dumps(controls.assembled()).encode().replace(old, new)
    assert outcome(payload, short=True) == outcome(payload, short=False)


@pytest.mark.parametrize(
    "payload",
    [
        controls.paid(),
        controls.assembled(),
        controls.assembled(occurred_at="2026-11-24T12:00:00.250000+00:00"),
        controls.assembled() | {"a_field_of_tomorrow": "x" * 300, "another": -1.5e3, "and": None},
    ],
)
def test_our_own_events_take_the_short_way(payload: controls.Payload) -> None:
    kind = events.known()[payload["event_type"]]
    found = shortcut.to(kind, events.Event, YEARS)(json.dumps(payload).encode())
    assert events.read_with_care(json.dumps(payload).encode(), events.known()) == found


def upper(value: str) -> str:
    return value.upper()


class Checked(pydantic.BaseModel):
    model_config = events.Event.model_config
    name: events.Id

    @pydantic.field_validator("name")
    @classmethod
    def never(cls, _value: str) -> str:
        raise ValueError


class Loose(pydantic.BaseModel):
    name: events.Id


class Private(pydantic.BaseModel):
    model_config = events.Event.model_config
    name: events.Id
    _more: int = 1


@pytest.mark.parametrize(
    "rule",
    [
        float,
        list[str],
        str | None,
        Annotated[str, pydantic.Field(pattern="^[A-Z]+$")],
        Annotated[str, pydantic.AfterValidator(upper)],
        Annotated[int, pydantic.Field(multiple_of=5)],
        Annotated[int, pydantic.Field(gt=5)],
        Annotated[events.Id, pydantic.Field(alias="called")],
        pydantic.AwareDatetime | None,
    ],
)
def test_a_field_with_a_rule_of_its_own_has_no_short_way(rule: Any) -> None:
    model = pydantic.create_model("Own", __config__=events.Event.model_config, name=(rule, ...))
    assert [None, None] == [shortcut.to(model, events.Event, YEARS)(payload) for payload in (b'{"name":"x"}', b'{"name":1}')]


@pytest.mark.parametrize("model", [Checked, Loose, Private])
def test_a_model_with_rules_of_its_own_has_no_short_way(model: type[pydantic.BaseModel]) -> None:
    assert shortcut.to(model, events.Event, YEARS)(b'{"name":"x"}') is None


def test_a_copy_of_an_event_has_its_context() -> None:
    context = events.Context(correlation_id="c", traceparent=controls.TRACEPARENT)
    event = events.OrderAssembled.model_validate(controls.assembled()).within(context, b"as it came")
    copied: Any = copy.copy(event)
    assert (context, b"as it came", event) == (copied.context, copied.received, copied)


def test_an_event_that_came_from_nowhere_is_received_as_we_write_it() -> None:
    event = events.OrderAssembled.model_validate(controls.assembled(occurred_at=datetime(2026, 1, 31, tzinfo=UTC).isoformat()))
    assert (event.value(), events.Context()) == (event.received, event.context)
