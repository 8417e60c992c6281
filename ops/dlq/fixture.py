"""A letter as a test: the record that failed, and what its handler is to make of it. tests/letters runs every such file."""

import base64
import enum
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.dlq import inboxes, redaction
from ops.dlq.originals import Original, passed_on
from ops.dlq.query import Row
from ops.dlq.view import Record
from shared import errors
from shared.config import Settings


class Expect(enum.StrEnum):
    """What the handler is to make of the record: handle it, or refuse it as it did."""

    done = "done"
    refused = "refused"


@dataclass(frozen=True, slots=True)
class Fixture:
    """One file."""

    consumer: str
    function: str
    expect: Expect
    code: str
    record: Original


def name(row: Row) -> str:
    """The name of a letter's file: its consumer, its error and how its id begins."""
    parts = (row["consumer"], row["error_code"], row["letter_id"][:8])
    return "-".join(re.sub(r"[^A-Za-z0-9]+", "_", part).strip("_") for part in parts) + ".json"


def made(settings: Settings, row: Row, held: Record, *, expect: Expect, redact: bool) -> str:
    """The file of a letter. Raises Refused where no function of ours is its consumer, or it cannot be redacted."""
    consumer = inboxes.by_group(settings).get(row["consumer"])
    if consumer is None:
        raise errors.Refused(
            f"{row['consumer']} is no consumer of contracts/topics.yaml, so no function can run it", code="unknown_consumer"
        )
    key, value, headers = held.key, held.value, held.headers
    if redact:
        value = redaction.value(value)
        headers = tuple((header, redaction.header(header, raw)) for header, raw in headers)
        if key is not None and row["order_id"] != key.decode("utf-8", "replace"):
            key = redaction.text(key.decode("latin-1")).encode("latin-1")
    told: dict[str, Any] = {
        "letter_id": row["letter_id"],
        "consumer": row["consumer"],
        "function": consumer.function,
        "failed": {"reason": row["reason"], "code": row["error_code"], "place": row["place"], "status": held.body.get("error_status")},
        "expect": expect.value,
        "redacted": redact,
        "record": {
            "topic": row["topic"],
            "partition": row["partition"],
            "offset": row["message_offset"],
            "key": _data(key),
            "headers": [[header, _data(raw)] for header, raw in headers],
            "value": _data(value),
        },
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def read(path: Path) -> Fixture:
    """The file at `path`."""
    told = json.loads(path.read_text(encoding="utf-8"))
    record = told["record"]
    return Fixture(
        consumer=told["consumer"],
        function=told["function"],
        expect=Expect(told["expect"]),
        code=told["failed"]["code"],
        record=Original(
            topic=record["topic"],
            value=_bytes(record["value"]),
            key=_bytes(record["key"]),
            headers=passed_on((header, _bytes(raw)) for header, raw in record["headers"]),
            partition=record["partition"],
            offset=record["offset"],
        ),
    )


def _data(raw: bytes | None) -> dict[str, str] | None:
    """Bytes as text, so that a review shows what they are; in base64 where they are none."""
    if raw is None:
        return None
    try:
        return {"text": raw.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _bytes(told: dict[str, str] | None) -> bytes | None:
    if told is None:
        return None
    return told["text"].encode() if "text" in told else base64.b64decode(told["base64"])
