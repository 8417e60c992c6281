"""CloudEvents made by hand, with the CloudEvents SDK, so that two implementations check each other."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import cloudevents.exceptions
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent, from_dict
from pydantic import ValidationError

from ops import records
from shared import events, ids

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
Event: TypeAlias = CloudEvent  # for those who hold one: the SDK is imported here only

_ATTRIBUTE = re.compile(r"[a-z0-9]+")
_TIED = {"id": "event_id", "subject": "order_id", "time": "occurred_at"}  # attributes that repeat a field of the payload
_PLAIN_HEADERS = {"datacontenttype": "content-type", "traceparent": "traceparent", "tracestate": "tracestate"}
_EXAMPLES: dict[str, Any] = {"user_id": "user-1", "amount": 10_000, "payment_method": "card"}


def make(kind: str, attributes: Mapping[str, str], data: Mapping[str, str], *, checked: bool = True) -> CloudEvent:
    """A new event of the type `kind` with these attributes and payload fields. Raises ValueError, naming what is wrong."""
    model = _model(kind)
    faults = [fault for name, value in attributes.items() if (fault := _fault(name, value))]
    if faults:
        raise ValueError("; ".join(faults))
    payload = _payload(model, {_TIED[name]: value for name, value in attributes.items() if name in _TIED} | dict(data))
    try:
        event = model.model_validate(payload)
    except ValidationError as exc:
        if checked:
            named = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}" for fault in exc.errors())
            raise ValueError(named) from exc
        faulty = {fault["loc"][0] for fault in exc.errors()}
        event = model.model_validate(_payload(model, {}) | {name: value for name, value in payload.items() if name not in faulty})
    found = {_attribute(name): value for name, value in event.headers().items()} | dict(attributes)
    if checked and found["id"] != event.event_id:
        raise ValueError(f"id: {found['id']!r} is not the payload's event_id {event.event_id!r}, and our functions would refuse that")
    if "partitionkey" not in attributes:
        found["partitionkey"] = found["subject"]
    written = json.loads(event.value())
    return CloudEvent(found, written | {name: value for name, value in payload.items() if name not in written or not checked})


def read(text: bytes) -> tuple[list[CloudEvent], bool]:
    """The events in a file: one, a JSON array (then it says that it is a batch), or one in each line. Raises ValueError."""
    try:
        whole = json.loads(text)
    except ValueError as exc:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise ValueError(f"is not JSON: {exc}") from exc
        return [_read_one(_line(line, number), f"line {number}") for number, line in enumerate(lines, 1)], False
    if isinstance(whole, list):
        return [_read_one(one, f"event {number}") for number, one in enumerate(whole, 1)], True
    return [_read_one(whole, "the event")], False


def request(event: CloudEvent, *, binary: bool = False) -> tuple[dict[str, str], bytes]:
    """Headers and body of the HTTP request that delivers the event alone."""
    headers, body = (to_binary if binary else to_structured)(event)
    return dict(headers), body or b""


def batch_request(batch: Sequence[CloudEvent]) -> tuple[dict[str, str], bytes]:
    """Headers and body of the HTTP request that delivers the events together."""
    return {"content-type": BATCH}, b"[" + b",".join(to_structured(event)[1] for event in batch) + b"]"


def record(event: CloudEvent, *, structured: bool = False) -> records.Record:
    """The event as a Kafka record, in binary mode as our own events are."""
    attributes = {name: str(value) for name, value in event.get_attributes().items() if value is not None}
    key = attributes.get("partitionkey")
    if structured:
        return records.Record(records.encoded(key), to_structured(event)[1], (("content-type", f"{STRUCTURED}; charset=UTF-8".encode()),))
    headers = tuple((_PLAIN_HEADERS.get(name, f"ce_{name}"), value.encode()) for name, value in attributes.items())
    return records.Record(records.encoded(key), _bytes(event.get_data()), headers)


def _model(kind: str) -> type[events.Event]:
    known = events.known()
    by_class = {model.__name__: model for model in known.values()}
    found = known.get(kind) or by_class.get(kind)
    if found is None:
        raise ValueError(f"{kind!r} is no event type; there are {', '.join(known)}")
    return found


def _fault(name: str, value: str) -> str | None:
    if not _ATTRIBUTE.fullmatch(name) or name in {"data", "database64"}:
        return f"{name}: an attribute's name is made of a-z and 0-9, and is not data"
    if not value:
        return f"{name}: an attribute cannot be empty"
    if name == "specversion" and value != "1.0":
        return "specversion: must be 1.0"
    if name == "type":
        return "type: it is the argument TYPE"
    return None


def _payload(model: type[events.Event], given: Mapping[str, str]) -> dict[str, Any]:
    properties = model.model_json_schema()["properties"]
    made: dict[str, Any] = {"event_type": model.TYPE, "event_version": 1, "event_id": ids.new(), "order_id": ids.new()}
    made |= {"occurred_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
    made |= {name: _EXAMPLES.get(name) or _example(field) for name, field in properties.items() if name not in made}
    for path, text in given.items():
        *parents, last = path.split(".")
        inner = made
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{path}: {parent} is not an object")
        declared = properties.get(path, {}).get("type")
        inner[last] = text if declared == "string" else _loose(text)
    return made


def _example(field: Mapping[str, Any]) -> Any:
    """A value of a field that has no example of its own."""
    kind = field.get("type")
    if kind in {"integer", "number"}:
        return field.get("minimum", 1)
    return True if kind == "boolean" else "example"


def _loose(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _line(line: bytes, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as exc:
        raise ValueError(f"line {number}: is not JSON: {exc}") from exc


def _read_one(raw: Any, where: str) -> CloudEvent:
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: must be a JSON object")
    missing = [name for name in ("specversion", "id", "source", "type") if not isinstance(raw.get(name), str) or not raw[name]]
    if missing:
        raise ValueError(f"{where}: is not a structured CloudEvent: {', '.join(missing)} missing or not text")
    if raw["specversion"] != "1.0":
        raise ValueError(f"{where}: specversion must be 1.0, not {raw['specversion']!r}")
    whole = dict(raw)
    if "data_base64" in whole:
        whole["data"] = base64.b64decode(whole.pop("data_base64"), validate=True)
    whole.setdefault("data", None)
    try:
        event = from_dict(whole)
    except (cloudevents.exceptions.GenericException, ValueError, TypeError) as exc:
        raise ValueError(f"{where}: is not a structured CloudEvent: {exc}") from exc
    if "time" not in whole:
        del event["time"]  # the SDK made one up
    return event


def _bytes(data: Any) -> bytes | None:
    if data is None or isinstance(data, bytes):
        return data
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def _attribute(header: str) -> str:
    plain = {value: name for name, value in _PLAIN_HEADERS.items()}
    return plain.get(header) or header.removeprefix("ce_")
