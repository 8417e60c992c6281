"""What a source hands over, read in either of its forms. Reading never fails: what cannot be read is kept as bytes.

Our own source sends the record byte for byte, with what is known of the failure. A KafkaSource sends the event that it could not
deliver, with `knativeerror…` extensions; of a record that is a CloudEvent it passes on neither the key nor other headers, and of a plain
one the headers' names are changed. `exact` says whether key, value and headers are the record's own.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from shared import events

FAILED_RECORD = "application/vnd.orderflow.failed-record+json"
STRUCTURED = "application/cloudevents+json"
DEPENDENCY_AWAY, REFUSED, OUT_OF_RETRIES = "dependency_away", "refused", "out_of_retries"
UNREADABLE = "unreadable_delivery"
REASONS = frozenset({DEPENDENCY_AWAY, REFUSED, OUT_OF_RETRIES})

# A KafkaSource gives up on these too, though none is the event's fault; nor, most of the time, is a proxy's 502 or 504, or no answer.
_NOT_THE_EVENTS_FAULT = frozenset({401, 403, 404, 405, 408, 409, 429, 502, 503, 504})
_NUMBER = re.compile(r"\d{1,19}")
_OFFSET_MAX = 2**63 - 1
# What a KafkaSource and our manifests add to an event; the record had none of it.
_ADDED = re.compile(r"knativeerror(code|data|dest)|knativekafka(partition|offset)|kafkatopic")

Headers = tuple[tuple[str, bytes | None], ...]


class _Structured(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw()


_structured = msgspec.json.Decoder(_Structured)


@dataclass(frozen=True, slots=True)
class Failed:
    """A record that its consumer could not handle, and why."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None
    offset: int | None = None
    timestamp_ms: int | None = None
    status: int | None = None
    code: str = UNREADABLE
    detail: str = ""
    place: str = ""
    reason: str = REFUSED
    attempts: int | None = None
    exact: bool = False
    event_id: str | None = None  # only where neither partition nor offset is known
    traceparent: str | None = None


def read(topic: str, http: Sequence[tuple[bytes, bytes]], body: bytes) -> Failed:
    """What `body` and the HTTP headers `http` tell about a failed record of `topic`."""
    fields = {name.decode("latin-1").lower(): value for name, value in http}
    media_type = fields.get("content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if "ce-specversion" in fields or "ce-knativeerrordest" in fields:  # first: the content type may be the record's own
        null = not body and "content-length" not in fields and "transfer-encoding" not in fields
        attributes = {name[3:]: value for name, value in fields.items() if name.startswith("ce-")}
        found = _of_event(topic, attributes, None if null else body, fields.get("content-type"))
    elif media_type == FAILED_RECORD:
        found = _of_record(topic, body)
    elif media_type == STRUCTURED:
        found = _of_structured(topic, body)
    else:
        found = Failed(topic, body, detail=f"a delivery of the content type {media_type!r} cannot be read here")
    return replace(found, traceparent=text(fields.get("traceparent", b"").decode("latin-1")) or None)


def text(value: object) -> str:
    """`value` if it is a text, with halves of surrogate pairs escaped so that it has a UTF-8 form; else nothing."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else ""


def parsed(body: bytes | None) -> Any:
    """`body` as JSON, or None."""
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError):
        return None


def _of_record(topic: str, body: bytes) -> Failed:
    told = parsed(body)
    if not isinstance(told, dict):
        return Failed(topic, body, detail="a failed record that is no JSON object")
    reason = text(told.get("reason"))
    known = Failed(
        topic=text(told.get("topic")) or topic,
        value=body,
        partition=_number(told.get("partition")),
        offset=_number(told.get("offset")),
        timestamp_ms=_number(told.get("timestamp")),
        status=_number(told.get("status")),
        code=text(told.get("code")) or UNREADABLE,
        detail=text(told.get("detail")),
        place=text(told.get("place")),
        reason=reason if reason in REASONS else REFUSED,
        attempts=_number(told.get("attempts")),
    )
    try:
        headers = tuple((_name(pair), _bytes(pair[1])) for pair in told.get("headers") or ())
        return replace(known, key=_bytes(told.get("key")), value=_bytes(told["value"]), headers=headers, exact=True)
    except (KeyError, IndexError, TypeError, ValueError):
        return replace(known, code=UNREADABLE, detail=f"a failed record whose key, value or headers cannot be read ({known.detail})")


def _of_structured(topic: str, body: bytes) -> Failed:
    told, data = parsed(body), _data(body)
    if not isinstance(told, dict) or "specversion" not in told or data is None:
        return Failed(topic, body, detail="a structured CloudEvent that is no JSON object with a specversion")
    attributes = {
        name: (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "backslashreplace")
        for name, value in told.items()
        if name not in {"data", "data_base64", "datacontenttype"} and value is not None
    }
    content_type = text(told.get("datacontenttype")).encode() or None
    try:
        value = _bytes(told["data_base64"]) if "data_base64" in told else None
    except (TypeError, ValueError):
        return Failed(topic, body, detail="a structured CloudEvent whose data_base64 is not base64")
    if "data" in told:
        value = bytes(data.data)
    return replace(_of_event(topic, attributes, value, content_type), exact=False)


def _data(body: bytes) -> _Structured | None:
    """Its data as they stand there: read and written again, 1e400 would be Infinity, and of a repeated name one would be lost."""
    try:
        return _structured.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _of_event(topic: str, attributes: Mapping[str, bytes], value: bytes | None, content_type: bytes | None) -> Failed:
    def attribute(name: str) -> str:
        return attributes.get(name, b"").decode("latin-1")

    plain = attribute("type") == events.KNATIVE_KAFKA_TYPE
    headers, key, key_known = (_of_plain if plain else _of_cloudevent)(attributes, content_type)
    status = _number(attribute("knativeerrorcode"))
    answer = _answer(attribute("knativeerrordata"))
    problem = parsed(answer)
    told = problem if isinstance(problem, dict) else {}
    detail = text(told.get("detail")) or answer.decode("utf-8", "replace")
    reason = OUT_OF_RETRIES if status is not None and status >= 500 else REFUSED
    if status is None or status in _NOT_THE_EVENTS_FAULT:
        reason = DEPENDENCY_AWAY
        detail = detail or ("no answer" if status is None else f"HTTP {status}")
    offset = _number(attribute("knativekafkaoffset"))
    return Failed(
        topic=attribute("kafkatopic") or (attribute("source").rpartition("#")[2] if plain else "") or topic,
        value=value,
        key=key,
        headers=headers,
        partition=_number(attribute("knativekafkapartition")),
        offset=offset,
        timestamp_ms=_milliseconds(attribute("time")) if plain else None,
        status=status,
        code=text(told.get("code")) or f"http_{status}",
        detail=detail,
        place=text(told.get("place")),
        reason=reason,
        exact=plain and key_known and not headers,
        event_id=f"{attribute('source')}#{attribute('id')}" if offset is None else None,
    )


def _of_plain(attributes: Mapping[str, bytes], content_type: bytes | None) -> tuple[Headers, bytes | None, bool]:
    headers = [(name.removeprefix("kafkaheader"), value) for name, value in attributes.items() if name.startswith("kafkaheader")]
    if content_type is not None:
        headers.append(("content-type", content_type))
    shown = attributes.get("key")
    if shown is None:
        return tuple(headers), None, True
    # Our manifests have key-type byte-array, which shows a key as base64. Another key type shows it as text.
    try:
        key = base64.b64decode(shown, validate=True)
    except binascii.Error:
        return tuple(headers), shown, False
    return (tuple(headers), key, True) if base64.b64encode(key) == shown else (tuple(headers), shown, False)


def _of_cloudevent(attributes: Mapping[str, bytes], content_type: bytes | None) -> tuple[Headers, bytes | None, bool]:
    headers = [(f"ce_{name}", value) for name, value in attributes.items() if not _ADDED.fullmatch(name)]
    if content_type is not None:
        headers.append(("content-type", content_type))
    return tuple(headers), attributes.get("partitionkey"), False


def _answer(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return encoded.encode()


def _milliseconds(moment: str) -> int | None:
    try:
        return round(datetime.fromisoformat(moment).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def _number(value: object) -> int | None:
    """A whole number from zero on, also where it is written as a text: an offset is longer than a CloudEvents Integer."""
    if isinstance(value, str) and value.isascii() and _NUMBER.fullmatch(value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _OFFSET_MAX else None


def _name(pair: Any) -> str:
    if not isinstance(pair[0], str) or len(pair) != 2:
        raise TypeError("a header must be a name and a value")
    return pair[0]


def _bytes(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError("must be base64 or null")
    return base64.b64decode(value, validate=True)
