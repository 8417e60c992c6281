"""Records that no consumer can handle. Each has to become one letter of each consumer of its topic, byte for byte, and stop nobody."""

import json
from typing import NamedTuple

from shared import events

KINDS = (
    "truncated",
    "no JSON",
    "no UTF-8",
    "empty",
    "tombstone",
    "deep",
    "type unknown",
    "version unknown",
    "field missing",
    "field of another type",
    "field too long",
    "value too large",
    "ce_id of another",
    "ce_id missing, structured",
    "specversion unknown",
    "content type unknown",
)
_LARGE_BYTES = 150_000


class Raw(NamedTuple):
    """A record as it goes onto a topic."""

    value: bytes | None
    headers: dict[str, str]


def make(kind: str, event: events.Event) -> Raw:
    """A record of `kind`, made from an event that would be well. Raises KeyError for an unknown kind."""
    told = json.loads(event.value())
    value, headers = event.value(), event.headers()
    around = {"specversion": "1.0", "type": event.event_type, "source": event.SOURCE, "datacontenttype": "application/json", "data": told}
    made: dict[str, Raw] = {
        "truncated": Raw(value[: len(value) // 2], {}),
        "no JSON": Raw(b"order=" + event.order_id.encode(), {}),
        "no UTF-8": Raw(value.replace(b'"user_id":"', b'"user_id":"\xff\xfe'), {}),
        "empty": Raw(b"", {}),
        "tombstone": Raw(None, {}),
        "deep": Raw(b"[" * 5000, headers),
        "type unknown": Raw(_json(told | {"event_type": "order.cancelled"}), {}),
        "version unknown": Raw(_json(told | {"event_version": 2}), {}),
        "field missing": Raw(_json({name: told[name] for name in told if name != "user_id"}), headers),
        "field of another type": Raw(_json(told | {"order_id": 17}), {}),
        "field too long": Raw(_json(told | {"user_id": "u" * 129}), headers),
        "value too large": Raw(_json(told | {"user_id": "u" * _LARGE_BYTES}), {}),
        "ce_id of another": Raw(value, headers | {"ce_id": f"{event.event_id}-other"}),
        "ce_id missing, structured": Raw(_json(around), {"content-type": "application/cloudevents+json"}),
        "specversion unknown": Raw(value, headers | {"ce_specversion": "0.3"}),
        "content type unknown": Raw(value, headers | {"content-type": "image/png"}),
    }
    return made[kind]


def _json(told: object) -> bytes:
    return json.dumps(told).encode()
