"""One function for each reader of bytes from outside. Each takes any bytes and fails by an exception where a promise is broken.

An input is text in the manner of HTTP: lines `name: value`, an empty line, and the rest as the body. So a corpus can be read by people.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import typer
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message
from starlette.requests import Request
from starlette.types import Message as AsgiMessage

from connectors.kafka_source import answers, http1, letter, partition, record
from connectors.kafka_source.plan import Source
from functions.dlq_router import failed
from functions.dlq_router import letter as letters_made
from functions.orders import api, faults, models
from fuzz import promises
from ops.dlq import edit, redaction, supply
from ops.dlq.view import Record
from shared import cloudevent, errors, events, letters, literals, problem

Target = Callable[[bytes], None]
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LETTER_BYTES_MAX = 2 * (1 << 20) + (64 << 10)
SOURCE = Source(
    name="s", namespace="shop", topics=("t",), group="g", brokers="b:1", earliest=True, ordered=True, key_type="byte-array",
    extensions=MappingProxyType({"kafkatopic": "t"}), batch_size=1, batch_wait_s=0, requests_in_flight=1, records_ahead_max=10, retries=3,
    backoff_delay_s=0.5, exponential=True, timeout_s=1, sink="http://f/", health="http://f/health", letters="http://d",
    letters_by_topic=True,
)  # fmt: skip
ENVELOPE = record.Envelope(SOURCE)


def cloudevent_request(data: bytes) -> None:
    """A delivery in binary or structured mode: its headers and its body."""
    lines, body = _split(data)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in lines}
    if cloudevent.is_batch(headers):
        promises.batch(body)
        return
    try:
        found = cloudevent.read_one(headers, body)
    except errors.Refused as refusal:
        promises.refused(refusal)
    else:
        promises.delivered(found)


def cloudevent_batch(data: bytes) -> None:
    """The body of a batch."""
    promises.batch(data)


def order_request(data: bytes) -> None:
    """POST /orders: the headers that are read, and the body."""
    lines, body = _split(data)
    headers = [(name.lower(), value) for name, value in lines]

    async def receive() -> AsgiMessage:
        return {"type": "http.request", "body": body, "more_body": False}

    request = Request({"type": "http", "method": "POST", "path": "/orders", "headers": headers}, receive)
    try:
        new = _run(api._new_order(request))
    except errors.Refused as refusal:
        if isinstance(refusal, faults.InvalidRequest) and not all(fault["field"] and fault["rule"] for fault in refusal.faults):
            raise promises.Broken(f"a fault names no field: {refusal.faults}") from refusal
        problem.response(refusal, faults=getattr(refusal, "faults", ()))
        return
    units = new.merged()
    literals.array([new.user_id, *units])
    if new.canonical_sha256() != models.NewOrder.model_validate_json(new.model_dump_json()).canonical_sha256():
        raise promises.Broken("an order that is read again is another one")
    if not 0 < sum(units.values()) < 1 << 63:
        raise promises.Broken(f"units out of reach: {units}")


def kafka_record(data: bytes) -> None:
    """A record of a topic on its way to the function: as one request, as an element of a batch, as a failed record."""
    lines, value = _split(data)
    key = next((text for name, text in lines if name == b"key"), None)
    headers: Any = [(name.decode("utf-8", "replace"), text) for name, text in lines if name != b"key"]
    made = a_record(value or None, headers, key)
    short, long = ENVELOPE.element(made), ENVELOPE.careful_element(made)
    promises.same(json.loads(short), json.loads(long))
    sent, body = ENVELOPE.request(made)
    for name, text in sent:
        if not name.replace(b"-", b"").isalnum() or any(control in text for control in (b"\r", b"\n", b"\x00")):
            raise promises.Broken(f"not a header: {name!r}: {text!r}")
    received = {name.decode("latin-1").lower(): text.decode("latin-1") for name, text in sent}
    if cloudevent.is_batch(received):
        raise promises.Broken("one record became a batch")
    with contextlib.suppress(errors.Refused):
        cloudevent.read_one(received, body or b"")
    cloudevent.read_batch(b"[%b]" % short, 1)
    told = letter.letter(made, letter.Failure("refused", answers.Answer(answers.Kind.REFUSED, 422, "x", "y"), 1))
    found = failed.read("t", [(b"content-type", failed.FAILED_RECORD.encode())], told)
    if (found.key, found.value, list(found.headers), found.exact) != (key, value or None, headers, True):
        raise promises.Broken("a failed record is not what it was")


def http_answer(data: bytes) -> None:
    """What a function, or whoever answers in its place, sends back: the first byte says where it is cut in two."""
    loop = asyncio.new_event_loop()
    try:
        connection = http1._Connection()
        connection.connection_made(_Nowhere())
        future: asyncio.Future[http1.Response] = loop.create_future()
        connection._answer = future
        middle = data[0] * len(data) // 256 if data else 0
        for part in (data[1:middle], data[middle:]):
            if part:
                connection.data_received(part)
        connection.eof_received()
        connection.connection_lost(None)
        if not future.done():
            raise promises.Broken("neither an answer nor none")
        exc = future.exception()
        if exc is not None and not isinstance(exc, http1.NoAnswer):
            raise exc
        if exc is None:
            promises.answered(future.result())
    finally:
        loop.close()


def failed_record(data: bytes) -> None:
    """What is handed to dlq_router, by our own source or a KafkaSource."""
    lines, body = _split(data)
    found = failed.read("t", [(name.lower(), value) for name, value in lines], body)
    made = letters_made.write(found, "assembly-service", now=NOW, bytes_max=LETTER_BYTES_MAX)
    if len(made.value) + len(made.key or b"") > LETTER_BYTES_MAX:
        raise promises.Broken("a letter that does not fit its topic")
    if letters_made.original(json.loads(made.value)) != (found.key, found.value, found.headers):
        raise promises.Broken("a letter that does not hold its record")
    if found.code == failed.UNREADABLE and not found.exact and b"knativeerrordata" not in data and found.value != body:
        raise promises.Broken("an unreadable delivery whose bytes are lost")
    entry = letters.read(made.value)
    texts = [entry.topic, entry.error_code, entry.error_message]
    literals.array([*texts, *(text for text in (entry.event_id, entry.order_id, entry.event_type, entry.place) if text is not None)])


def edited_letter(data: bytes) -> None:
    """A letter's record mended by hand, shown without persons, and a line of a file that is replayed: `set: path=value` and the record."""
    lines, value = _split(data)
    sets = [text.decode("utf-8", "replace") for name, text in lines if name == b"set"]
    unsets = [text.decode("utf-8", "replace") for name, text in lines if name == b"unset"]
    headers = tuple((name.decode("utf-8", "replace"), text) for name, text in lines if name not in {b"set", b"unset"})
    found = failed.Failed("t", value, b"k", headers)
    body = json.loads(letters_made.write(found, "assembly-service", now=NOW, bytes_max=LETTER_BYTES_MAX).value)
    row: dict[str, Any] = {"letter_id": body["letter_id"], "order_id": body["order_id"], "event_id": body["event_id"]}
    with contextlib.suppress(errors.Refused):
        made = edit.draft(row, Record(b"k", value, headers, body), value)
        edit.difference(Record(b"k", value, headers, body), made)
        promises.event(events.read(json.dumps(_payload(made.value)).encode(), events.known()))
    with contextlib.suppress(errors.Refused, typer.Exit):
        json.loads(edit.changed(value, sets, unsets))
    with contextlib.suppress(errors.Refused):
        redaction.value(value)
    with contextlib.suppress(errors.Refused, typer.Exit):
        supply._of_line(value, "line 1", {"order.payment.completed": "order.payment.completed"}, None)


def a_record(value: bytes | None, headers: Any = None, key: bytes | None = None) -> record.Record:
    """A record as the source has it when it was read."""
    message = Message("t", 3, 7, key, value, headers, None, (TIMESTAMP_CREATE_TIME, 1_700_000_000_123))
    return record.Record(message, partition.Partition("t", 3, 0, None), 7, 0.0)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (cloudevent_request, cloudevent_batch, order_request, kafka_record, http_answer, failed_record, edited_letter)
}


class _Nowhere(asyncio.Transport):
    """The other end of a connection that nothing is written to."""

    def get_write_buffer_size(self) -> int:
        return 0


def _split(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    head, _, body = data.partition(b"\n\n")
    lines = [line.partition(b": ") for line in head.split(b"\n") if line]
    return [(name, value) for name, _, value in lines], body


def _payload(value: bytes) -> Any:
    document = json.loads(value)
    return document["data"] if "specversion" in document and isinstance(document.get("data"), dict) else document


def _run(work: Coroutine[Any, Any, models.NewOrder]) -> models.NewOrder:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise promises.Broken("it waits for something")
