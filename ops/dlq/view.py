"""A letter as people and scripts see it: the record decoded, where it lay, what went wrong, and what happened since."""

import base64
import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

from functions.dlq_router import letter
from ops import terminal
from ops.dlq.query import Row
from shared import errors


class Record(NamedTuple):
    """The record that failed, byte for byte, and the letter's whole JSON."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    body: dict[str, Any]


def record(value: bytes) -> Record:
    """The record in a letter's JSON. Raises Refused when that is damaged."""
    try:
        body = json.loads(value)
        return Record(*letter.original(body), body)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as exc:
        raise errors.Refused(f"the letter's record cannot be read: {exc}", code="unreadable_letter") from exc


def as_json(row: Row, held: Record, history: list[Row], lineage: list[Row]) -> dict[str, Any]:
    """Everything about a letter, for scripts."""
    own = {name: iso(value) for name, value in row.items() if name != "stored_state"}
    extra = {name: held.body.get(name) for name in ("error_status", "original_timestamp", "original_exact", "traceparent")}
    return own | extra | {
        "key": _both(held.key),
        "value": _both(held.value),
        "headers": [{"name": name, **(_both(value) or {"text": None, "base64": None})} for name, value in held.headers],
        "history": [{name: iso(value) for name, value in line.items()} for line in history],
        "lineage": lineage,
    }  # fmt: skip


def show(row: Row, held: Record, history: list[Row], lineage: list[Row]) -> None:
    """Everything about a letter, for people."""
    moment = held.body.get("original_timestamp")
    because = f" ({row['state_reason']})" if row["state_reason"] else ""
    where = f" at {row['place']}" if row["place"] else ""
    again = f", {row['times']} times, last {iso(row['last_failed_at'])}" if row["times"] > 1 else ""
    facts = [
        ("letter", row["letter_id"]),
        ("state", f"{row['state']}{because}"),
        ("consumer", row["consumer"]),
        ("event", " ".join(filter(None, (row["event_type"], row["event_id"])))),
        ("order", row["order_id"]),
        ("record", f"{_place(row['topic'], row['partition'], row['message_offset'])}{f', {_time(moment)}' if moment else ''}"),
        ("exact", "yes" if held.body.get("original_exact") else "no: a KafkaSource changes key and headers on the way"),
        ("on topic", _place(row["dlq_topic"], row["dlq_partition"], row["dlq_offset"])),
        ("cause", f"{row['reason']}: {row['error_code']}{where} [{row['fingerprint']}]"),
        ("status", held.body.get("error_status") or "no answer"),
        ("attempts", row["attempts"]),
        ("failed", f"{iso(row['failed_at'])}{again}"),
        ("trace", held.body.get("traceparent")),
        ("error", row["error_message"]),
    ]
    for name, value in facts:
        if value not in {None, ""}:
            terminal.say(f"{name + ':':<10}{terminal.printable(str(value).encode('utf-8', 'replace'))}", "red" if name == "error" else "")
    terminal.say(f"{'key:':<10}{_shown(held.key)}")
    for name, raw in held.headers:
        terminal.say(f"{'header:':<10}{terminal.printable(name.encode('utf-8', 'replace'))}={_shown(raw)}")
    terminal.say("value:")
    for line in pretty(held.value).splitlines():
        terminal.say(f"  {line}")
    if len(lineage) > 1:
        terminal.say("versions:")
        for version in lineage:
            mark = "*" if version["letter_id"] == row["letter_id"] else " "
            terminal.say(f"{mark} {version['letter_id']}  {version['state']}")
    if history:
        terminal.say("history:")
        for event in history:
            run = f" (run {event['run_id']})" if event["run_id"] else ""
            told = f": {terminal.printable(event['detail'].encode())}" if event["detail"] else ""
            terminal.say(f"  {iso(event['at'])}  {event['what']}, {event['who']}{told}{run}")


def pretty(value: bytes | None) -> str:
    """A value to be read: JSON indented, any other text as it is, bytes that do not print as \\xNN."""
    if value is None:
        return "(null)"
    try:
        return json.dumps(json.loads(value), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return "\n".join(terminal.printable(line) for line in value.split(b"\n"))


def iso(value: Any) -> Any:
    """A time as text, anything else as it is."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def age(seconds: float | None) -> str:
    """`3 d`, `2 h`, `5 min`, `20 s`."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _place(topic: str | None, partition: int | None, offset: int | None) -> str:
    if topic is None:
        return ""
    return topic if partition is None and offset is None else f"{topic}[{partition}]@{offset}"


def _time(milliseconds: Any) -> str:
    try:
        return str(iso(datetime.fromtimestamp(int(milliseconds) / 1000, UTC)))
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"


def _both(data: bytes | None) -> dict[str, str | None] | None:
    """Bytes as text, where they are text, and in base64."""
    if data is None:
        return None
    try:
        text: str | None = data.decode()
    except UnicodeDecodeError:
        text = None
    return {"text": text, "base64": base64.b64encode(data).decode()}


def _shown(data: bytes | None) -> str:
    return "(null)" if data is None else terminal.printable(data)
