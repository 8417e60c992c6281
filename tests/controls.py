"""An example of every event, and of the requests that deliver it. A test changes what it is about and leaves the rest."""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

JSON = "application/json"
BATCH = "application/cloudevents-batch+json"
STRUCTURED = "application/cloudevents+json"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

Payload = dict[str, Any]


def new_id(prefix: str = "") -> str:
    """An id that no other test has."""
    return f"{prefix}{uuid.uuid4()}"


def paid(**changes: Any) -> Payload:
    """The payload of a paid order."""
    return {
        "event_id": new_id("paid-"),
        "event_type": "order.payment.completed",
        "event_version": 1,
        "occurred_at": "2026-11-24T12:00:00.250000Z",
        "order_id": new_id("order-"),
        "user_id": "user-7",
        "amount": 1_234_567,
        "payment_method": "card",
    } | changes


def assembled(**changes: Any) -> Payload:
    """The payload of an assembled order."""
    return {
        "event_id": new_id("assembled-"),
        "event_type": "order.assembly.completed",
        "event_version": 1,
        "occurred_at": "2026-11-24T12:00:10Z",
        "order_id": new_id("order-"),
        "user_id": "user-7",
    } | changes


def without(payload: Payload, *names: str) -> Payload:
    """`payload` without these fields."""
    return {name: value for name, value in payload.items() if name not in names}


def attributes(payload: Payload, **changes: Any) -> dict[str, str]:
    """The CloudEvents attributes of our own events."""
    sources = {"order.payment.completed": "/orderflow/orders", "order.assembly.completed": "/orderflow/assembly"}
    made = {
        "specversion": "1.0",
        "id": payload.get("event_id", "unknown"),
        "type": payload.get("event_type", "unknown"),
        "source": sources.get(payload.get("event_type", ""), "/elsewhere"),
        "subject": payload.get("order_id", "unknown"),
        "time": payload.get("occurred_at", "2026-11-24T12:00:00Z"),
        "correlationid": "correlation-1",
        "kafkatopic": str(payload.get("event_type", "unknown")),
        "knativekafkapartition": "3",
        "knativekafkaoffset": "3000000000",
    }
    return made | changes


def binary(payload: Payload, body: bytes | None = None, **changes: Any) -> dict[str, Any]:
    """httpx arguments: the event in binary mode."""
    headers = {f"ce-{name}": value for name, value in attributes(payload, **changes).items()}
    return {"headers": headers | {"content-type": JSON}, "content": json.dumps(payload).encode() if body is None else body}


def structured(payload: Payload, **changes: Any) -> dict[str, Any]:
    """httpx arguments: the event in structured mode."""
    return {"headers": {"content-type": STRUCTURED}, "content": json.dumps(element(payload, **changes)).encode()}


def plain(payload: Payload, *, partition: int = 0, offset: int = 0, source: str = "assembly-on-payment") -> dict[str, Any]:
    """httpx arguments: a record without CloudEvents headers, as a KafkaSource wraps it."""
    topic = payload.get("event_type", "unknown")
    headers = {
        "ce-specversion": "1.0",
        "ce-id": f"partition:{partition}/offset:{offset}",
        "ce-type": "dev.knative.kafka.event",
        "ce-source": f"/apis/v1/namespaces/default/kafkasources/{source}#{topic}",
        "ce-subject": f"partition:{partition}#{offset}",
        "ce-time": "2026-11-24T12:00:00Z",
        "ce-knativekafkapartition": str(partition),
        "ce-knativekafkaoffset": str(offset),
    }
    return {"headers": headers, "content": json.dumps(payload).encode()}


def element(payload: Payload, **changes: Any) -> dict[str, Any]:
    """One event of a batch."""
    return attributes(payload, **changes) | {"datacontenttype": JSON, "data": payload}


def batch(payloads: Sequence[Payload | Mapping[str, Any]]) -> dict[str, Any]:
    """httpx arguments: a batch of payloads, or of whole elements where they have a `specversion`."""
    elements = [payload if "specversion" in payload or "event_id" not in payload else element(dict(payload)) for payload in payloads]
    return {"headers": {"content-type": BATCH}, "content": json.dumps(elements).encode()}
