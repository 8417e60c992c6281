"""A dead letter as the index and the consumers know it: what it is about, why it failed, what it shares with others of its cause."""

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from shared import errors

REASONS = frozenset({"refused", "out_of_retries", "dependency_away"})
KEY_CHARACTERS_MAX = 512  # of a key in the index: a longer one is known by its hash
_CODE = re.compile(r"[a-z0-9_.-]{1,64}")
_YEARS = range(1970, 9999)  # what both Python and a timestamptz hold in any time zone

_Short = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Text = Annotated[str, msgspec.Meta(max_length=2048)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Letter(msgspec.Struct):
    """What the index takes from a letter's JSON."""

    letter_id: _Short
    consumer: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    original_topic: _Text
    failed_at: Annotated[datetime, msgspec.Meta(tz=True)]
    original_partition: _Number | None = None
    original_offset: _Number | None = None
    original_key: str | None = None
    error_code: _Text = "unknown"
    error_message: str = ""
    place: _Text | None = None
    reason: str = "refused"
    attempts: _Number | None = None
    event_type: _Short | None = None
    event_id: _Short | None = None
    order_id: _Short | None = None


_letter = msgspec.json.Decoder(_Letter)


@dataclass(frozen=True, slots=True)
class Entry:
    """One letter as the index knows it; `value` is its JSON as on the topic, the rest is where that lies, as far as it is known."""

    letter_id: str
    consumer: str
    topic: str
    partition: int | None
    message_offset: int | None
    event_id: str | None
    event_type: str | None
    order_id: str | None
    letter_key: str | None
    reason: str
    error_code: str
    error_message: str
    place: str | None
    fingerprint: str
    attempts: int | None
    failed_at: datetime
    value: bytes
    dlq_topic: str | None = None
    dlq_partition: int | None = None
    dlq_offset: int | None = None


def read(value: bytes, *, topic: str | None = None, partition: int | None = None, offset: int | None = None) -> Entry:
    """The entry of the letter whose JSON is `value` and which lies there on a dead-letter topic. Raises Refused when it is no letter."""
    try:
        told = _letter.decode(value)
        if told.failed_at.astimezone(UTC).year not in _YEARS:
            raise ValueError("failed_at: out of reach")
        reason = told.reason if told.reason in REASONS else "refused"
        return Entry(
            letter_id=_clean(told.letter_id),
            consumer=_clean(told.consumer),
            topic=_clean(told.original_topic),
            partition=told.original_partition,
            message_offset=told.original_offset,
            event_id=_maybe(told.event_id),
            event_type=_maybe(told.event_type),
            order_id=_maybe(told.order_id),
            letter_key=_key(_maybe(told.order_id), told.original_key),
            reason=reason,
            error_code=_clean(told.error_code),
            error_message=_clean(told.error_message[:4096]),
            place=_maybe(told.place),
            fingerprint=fingerprint(told.consumer, reason, told.error_code, told.place),
            attempts=told.attempts,
            failed_at=told.failed_at,
            value=value,
            dlq_topic=topic,
            dlq_partition=partition,
            dlq_offset=offset,
        )
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as exc:
        raise errors.Refused(f"not a letter: {exc}", code="no_letter") from exc


def fingerprint(consumer: str, reason: str, code: str, place: str | None) -> str:
    """What letters of one cause have in common. A code that is a sentence says nothing of a cause, so all such count as one."""
    known = code if _CODE.fullmatch(code) else "other"
    return hashlib.sha256("\x00".join((consumer, reason, known, place or "")).encode("utf-8", "replace")).hexdigest()[:16]


def key_of(order_id: str | None, record_key: bytes | None) -> str | None:
    """What the letters and events of one order are ordered and parked by: the order id, else the record's key."""
    return _key(order_id, None if record_key is None else base64.b64encode(record_key).decode())


def _key(order_id: str | None, shown: str | None) -> str | None:
    if order_id is not None or shown is None:
        return order_id
    return shown if len(shown) <= KEY_CHARACTERS_MAX else f"sha256:{hashlib.sha256(shown.encode('utf-8', 'replace')).hexdigest()}"


def _maybe(text: str | None) -> str | None:
    return None if text is None else _clean(text)


def _clean(text: str) -> str:
    """`text` as PostgreSQL takes it."""
    return text.replace("\x00", "\ufffd")
