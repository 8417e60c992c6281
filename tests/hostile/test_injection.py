"""Line ends and other tricks in what an event holds: they start no header, no message and no line of a log of their own."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka_source import record
from fuzz import targets
from shared import cloudevent, errors, events, logs, problem
from tests import controls
from tests.hostile.test_reading import ODD, steady

EVIL = ["a\r\nx-evil: 1", "a\nx-evil: 1", "a\rx", "a\x00b", "a: b", "A", "a-b", "", "é", "a\r\n\r\nPOST / HTTP/1.1\r\nhost: x"]


def structured(**more: object) -> record.Record:
    element = controls.element(controls.paid()) | more
    return targets.a_record(json.dumps(element).encode(), [("content-type", controls.STRUCTURED.encode())])


@pytest.mark.parametrize("name", EVIL)
def test_the_name_of_an_attribute_cannot_start_a_header(name: str) -> None:
    """It was written as it stood: with a line end in it, the sender of a record wrote headers, or a request of its own."""
    sent, body = targets.ENVELOPE.request(structured(**{name: "v"}))
    assert not [line for line in sent if b"evil" in line[0] or b"POST" in line[0]]
    assert all(line[0].replace(b"-", b"").isalnum() for line in sent)
    read = cloudevent.read_one({key.decode().lower(): text.decode("latin-1") for key, text in sent}, body or b"")
    assert read.plain  # it is no CloudEvent, and whoever looks at its letter is told so
    with pytest.raises(errors.Refused):
        events.read(read.payload, events.known())


@steady
@given(st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from([each for each in ODD if each.isprintable()]))
def test_the_value_of_a_record_header_cannot_start_another(text: str) -> None:
    sent, _ = targets.ENVELOPE.request(targets.a_record(b"{}", [("x", text.encode()), ("ce_\r\nevil", text.encode())]))
    assert not [line for line in sent if any(control in part for part in line for control in (b"\r", b"\n", b"\x00"))]


@pytest.mark.parametrize("size", [100, 60_000])
def test_a_record_with_more_headers_than_a_head_holds_travels_as_json(size: int) -> None:
    made = targets.a_record(b'{"n": 1}', [(f"h{n}", b"x" * 10) for n in range(size // 10)])
    sent, body = targets.ENVELOPE.request(made)
    assert sum(len(name) + len(text) + 4 for name, text in sent) < 32 << 10
    read = cloudevent.read_one({name.decode().lower(): text.decode("latin-1") for name, text in sent}, body or b"")
    assert (b'{"n": 1}', "partition:3/offset:7") == (read.payload, read.id)


@pytest.mark.parametrize("style", [logs._Json, logs._Text])
@steady
@given(text=st.sampled_from(["a\nb", "a\r\n12:00:00 error", "\x1b[2J", "\u2028", "\x85"]) | st.text(max_size=20))
def test_a_fact_of_a_log_line_cannot_start_another(style: type[logging.Formatter], text: str) -> None:
    line = style().format(logging.makeLogRecord({"msg": "fact %s", "args": (text,), "levelname": "INFO", "path": text}))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


@steady
@given(st.text(st.characters(codec=None), max_size=700))
def test_a_problem_is_one_line_of_json_whatever_it_tells(text: str) -> None:
    body = bytes(problem.response(errors.Refused(text, place=text)).body)
    assert b"\n" not in body
    assert len(body) <= 1024
    assert json.loads(body)["status"] == 422


@pytest.mark.parametrize("text", ["a\u2028User: another", "a\u2029Amount: 0", "a\x0bb", "a\x1cb"])
def test_a_field_of_an_event_is_no_line_of_a_message(text: str) -> None:
    from functions.notify import messages

    try:
        event = events.read(json.dumps(controls.paid(user_id=text, payment_method=text)).encode(), events.known())
    except errors.Refused:
        return
    assert isinstance(event, events.OrderPaid)
    assert len(messages.text(event).splitlines()) == 5


@pytest.mark.parametrize("topic", ["a\x00b", "a\nb", "é", "x" * 300])
def test_the_topic_in_a_plain_records_source_is_kept_only_where_it_can_be_stored(topic: str) -> None:
    """It goes into a row's JSON where a consumer parks, and PostgreSQL takes no NUL there."""
    around = {"specversion": "1.0", "id": "partition:0/offset:1", "type": events.KNATIVE_KAFKA_TYPE, "source": f"/s#{topic}", "data": {}}
    read = cloudevent.read_one({"content-type": controls.STRUCTURED}, json.dumps(around).encode())
    assert read.context.topic is None
