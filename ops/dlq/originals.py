"""The record that is sent again: as it was, without the headers that would mislead whoever gets it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from functions.dlq_router import failed, letter
from shared import letters

STRUCTURED = b"application/cloudevents+json"
# Marks of replicators and of other dead letters, what belongs to one hop, what a KafkaSource says of a failure. And every traceparent:
# a record that was tried a few times has gathered several, of which one goes with it.
_DENIED = re.compile(
    r"(ce_)?knativeerror\w*|(ce_)?traceparent|(ce_)?knativekafka(partition|offset)"
    r"|connection|keep-alive|proxy-(authenticate|authorization|connection)|te|trailers?|transfer-encoding|upgrade|content-length"
    r"|__replicator_id|__connect\..*|kafka_dlt-.*|kafka_(original|exception)-.*|letter_id",
    re.IGNORECASE,
)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_decoder: "msgspec.msgpack.Decoder[Original]"

Headers = tuple[tuple[str, bytes | None], ...]


class Original(msgspec.Struct, frozen=True):
    """One record. Where it lay is None for what was never a record, such as a line of a file."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None
    offset: int | None = None
    timestamp_ms: int | None = None

    @classmethod
    def unpack(cls, packed: bytes) -> "Original":
        """What `pack` made."""
        return _decoder.decode(packed)

    def pack(self) -> bytes:
        """All of it, to be kept."""
        return msgspec.msgpack.encode(self)

    def known(self) -> letter.Seen:
        """Event id, order id and type, where they can be read."""
        return letter.Seen.of(failed.Failed(self.topic, self.value, self.key, self.headers))

    def lane(self) -> str | None:
        """What is to stay in order with it: the order id, else the key in base64. None where nothing has to."""
        return letters.key_of(self.known().order_id, self.key or None)


_decoder = msgspec.msgpack.Decoder(Original)


def of_letter(body: Mapping[str, Any]) -> Original:
    """The record in a letter's JSON."""
    key, value, headers = letter.original(body)
    return Original(
        topic=body["original_topic"],
        value=value,
        key=key,
        headers=passed_on(headers, body.get("traceparent")),
        partition=body["original_partition"],
        offset=body["original_offset"],
        timestamp_ms=body.get("original_timestamp"),
    )


def of_event(topic: str, event: bytes, key: str | None) -> Original:
    """A structured CloudEvent that lay nowhere, as a record of `topic`."""
    return Original(topic, event, None if key is None else key.encode(), (("content-type", STRUCTURED),))


def passed_on(headers: Iterable[tuple[str, bytes | None]], traceparent: str | None = None) -> Headers:
    """`headers` without the denied ones, and with one traceparent: the one given, else the last that can be read."""
    kept: list[tuple[str, bytes | None]] = []
    found = None
    for name, value in headers:
        if not _DENIED.fullmatch(name):
            kept.append((name, value))
        elif name.lower().endswith("traceparent") and _TRACEPARENT.fullmatch(text := (value or b"").decode("latin-1")):
            found = text
    if (one := traceparent or found) is not None:
        kept.append(("traceparent", one.encode()))
    return tuple(kept)
