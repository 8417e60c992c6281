"""A dead letter: the record that failed, byte for byte, and everything that is known of the failure.

It always fits its topic, whose limit is twice the source topic's and 64 KiB. Base64 makes a third more of the bytes; where JSON would make
more than that of many small headers they are packed, and a key too large to be the letter's own too is replaced by its hash.
"""

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from functions.dlq_router import failed
from functions.dlq_router.failed import Failed, Headers
from shared import events

ERROR_BYTES_MAX, ERROR_BYTES_SHORT = 1024, 128
PLACE_BYTES_MAX = 128
OVERHEAD_BYTES = 1024  # of the record and its batch on the topic, beside key and value

_NO_PLACE = re.compile(r"[^A-Za-z0-9_.:<>,/-]")
_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Letter:
    """One letter, ready to be sent."""

    letter_id: str
    consumer: str
    key: bytes | None
    value: bytes
    order_id: str | None
    code: str
    failed_at: datetime
    headers: dict[str, str] = field(default_factory=dict)


def write(record: Failed, consumer: str, *, now: datetime, bytes_max: int) -> Letter:
    """The letter about `record`, which failed for the consumer group `consumer`; at most `bytes_max` bytes of it on its topic."""
    seen = Seen.of(record)
    letter_id = identity(record, consumer)
    code = failed.DEPENDENCY_AWAY if record.reason == failed.DEPENDENCY_AWAY else escaped(record.code, 64)
    message = record.detail if code == record.code else f"{record.code}: {record.detail}"
    body: dict[str, Any] = {
        "letter_id": letter_id,
        "consumer": consumer,
        "original_topic": escaped(record.topic, 256),
        "original_partition": record.partition,
        "original_offset": record.offset,
        "original_timestamp": record.timestamp_ms,
        "original_key": base64_of(record.key),
        "original_value": base64_of(record.value),
        "original_headers": [[name, base64_of(value)] for name, value in record.headers],
        "original_exact": record.exact,
        "error_code": code,
        "error_message": escaped(message, ERROR_BYTES_MAX),
        "error_status": record.status,
        "place": _place(record),
        "reason": record.reason,
        "attempts": record.attempts,
        "failed_at": now.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "event_type": seen.event_type,
        "event_id": seen.event_id,
        "order_id": seen.order_id,
        "traceparent": seen.traceparent or (record.traceparent if _TRACEPARENT.fullmatch(record.traceparent or "") else None),
    }
    key = seen.order_id.encode() if seen.order_id else record.key
    room = bytes_max - OVERHEAD_BYTES
    value = json.dumps(body).encode()
    if len(value) + len(key or b"") > room or not all(_has_utf8(name) for name, _ in record.headers):
        body["error_message"] = escaped(message, ERROR_BYTES_SHORT)
        body |= {"original_headers": None, "original_headers_packed": base64_of(pack(record.headers))}
        value = json.dumps(body).encode()
    if key is not None and len(value) + len(key) > room:
        key = hashlib.sha256(key).hexdigest().encode()
    headers = {"content-type": "application/json", "letter_id": letter_id}
    return Letter(letter_id, consumer, key, value, seen.order_id, code, now, headers)


def identity(record: Failed, consumer: str) -> str:
    """The same record failing again for the same consumer is the same letter: a UUIDv5."""
    digest = hashlib.sha256()
    for part in (record.key, record.value):
        digest.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    place = record.event_id or f"{record.partition}/{record.offset}"
    return str(uuid.uuid5(events.NAMESPACE, f"{consumer}/{record.topic}/{place}/{digest.hexdigest()}"))


def original(body: Mapping[str, Any]) -> tuple[bytes | None, bytes | None, Headers]:
    """Key, value and headers of the record in a letter's JSON, as they were."""
    packed = body.get("original_headers_packed")
    if packed is not None:
        headers = unpack(base64.b64decode(packed))
    else:
        headers = tuple((name, _unbase64(value)) for name, value in body["original_headers"])
    return _unbase64(body["original_key"]), _unbase64(body["original_value"]), headers


def escaped(text: str, bytes_max: int) -> str:
    """`text` with everything that does not print as an escape, in at most `bytes_max` bytes of ASCII JSON."""
    some = text[:bytes_max]
    shown = "".join(each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode() for each in some)
    if len(some) == len(text) and len(json.dumps(shown)) <= bytes_max + 2:
        return shown
    size, kept = 3, 0
    for each in shown:
        size += len(json.dumps(each)) - 2
        if size > bytes_max:
            break
        kept += 1
    return shown[:kept] + "..."


def pack(headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    """Headers in no more bytes than a Kafka record has for them: each text with its length before it, null as no length."""
    out = bytearray()
    for name, value in headers:
        for part in (name.encode("utf-8", "surrogatepass"), value):
            out += _varint(0 if part is None else len(part) + 1)
            out += part or b""
    return bytes(out)


def unpack(packed: bytes) -> Headers:
    """What `pack` made."""
    parts: list[bytes | None] = []
    at = 0
    while at < len(packed):
        length, at = _read_varint(packed, at)
        parts.append(packed[at : at + length - 1] if length else None)
        at += max(0, length - 1)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return tuple(((name or b"").decode("utf-8", "surrogatepass"), value) for name, value in pairs)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a record tells of the event in it."""

    event_type: str | None
    event_id: str | None
    order_id: str | None
    traceparent: str | None

    @classmethod
    def of(cls, record: Failed) -> "Seen":
        """Payload first, then the CloudEvent around it; nothing that is not a proper id."""
        headers = {name.lower(): value.decode("utf-8", "replace") for name, value in record.headers if value is not None}
        payload = failed.parsed(record.value)
        payload = payload if isinstance(payload, dict) else {}
        around = {name: headers.get(f"ce_{name}") for name in ("type", "id", "subject")}
        if "specversion" in payload and "type" in payload:
            around = payload
            payload = payload["data"] if isinstance(payload.get("data"), dict) else {}
        trace = headers.get("traceparent") or headers.get("ce_traceparent") or ""
        return cls(
            event_type=_id(payload.get("event_type")) or _id(around.get("type")),
            event_id=_id(payload.get("event_id")) or _id(around.get("id")),
            order_id=_id(payload.get("order_id")) or _id(around.get("subject")),
            traceparent=trace if _TRACEPARENT.fullmatch(trace) else None,
        )


def _place(record: Failed) -> str | None:
    """Class and line of a bug, the fields of a refusal: nothing else, whoever answered. While a dependency is away there is none."""
    found = " ".join(_NO_PLACE.sub(" ", record.place).split())[:PLACE_BYTES_MAX]
    return None if record.reason == failed.DEPENDENCY_AWAY else found or None


def _has_utf8(text: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def base64_of(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _unbase64(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(packed: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = packed[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
