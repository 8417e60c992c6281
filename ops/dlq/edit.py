"""A letter's record mended: what is changed, whether the event's model takes it, and the new letter that stands in for the old one.

What names the event around its payload (the record's `ce_id` header, the attributes of a structured event, the key) follows the payload,
for a function refuses an event whose names differ.
"""

import difflib
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from functions.dlq_router import letter
from ops import terminal
from ops.dlq import query, view
from ops.dlq.query import Row
from ops.dlq.view import Record
from shared import errors, events, letters, letters_index
from shared.database import Transaction

Headers = tuple[tuple[str, bytes | None], ...]

_PATH_PART = re.compile(r"((?:[^.\\]|\\.)+)(?:\.|$)")

_SUPERSEDE = """
UPDATE dlq_letters SET state = 'superseded', state_reason = 'edited', replaced_by = :new WHERE letter_id = :old
"""
_DESCEND = "UPDATE dlq_letters SET parent_letter_id = :old, dlq_topic = NULL WHERE letter_id = :new"
_HISTORY = "INSERT INTO dlq_history (letter_id, what, who, detail) VALUES (:id, :what, :who, :detail)"


@dataclass(frozen=True, slots=True)
class Draft:
    """The record as it is to be sent, and the letter that holds it."""

    letter_id: str
    value: bytes
    headers: Headers
    entry: letters.Entry


def changed(value: bytes | None, sets: Sequence[str], unsets: Sequence[str]) -> bytes:
    """`value` with each `path=value` set and each path of `unsets` removed. Raises Refused; a path that is none ends the command."""
    try:
        document = json.loads(value or b"")
    except (ValueError, RecursionError) as exc:
        raise errors.Refused(
            f"the value is not JSON, so nothing can be set in it ({exc}); --file gives a whole one", code="not_json"
        ) from exc
    for one in sets:
        path, equals, text = one.partition("=")
        if not equals:
            raise terminal.usage(f"--set {one!r}: must be PATH=VALUE")
        holder, last = _holder(document, path)
        if isinstance(holder, list):
            holder[int(last)] = _given(text)
        else:
            holder[last] = _given(text)
    for path in unsets:
        holder, last = _holder(document, path)
        try:
            del holder[int(last) if isinstance(holder, list) else last]
        except KeyError:
            raise terminal.usage(f"--unset {path}: there is no such field") from None
    return as_value(document, value)


def dumped(document: Any) -> bytes:
    """A document as a record's value."""
    try:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(document, separators=(",", ":")).encode()


def as_value(document: Any, before: bytes | None) -> bytes:
    """`document` as a record's value: the bytes of `before` where it says nothing else."""
    made = dumped(document)
    return before if before is not None and made == dumped(json.loads(before)) else made


def draft(row: Row, held: Record, value: bytes) -> Draft:
    """The letter with `value` as its record's. Raises Refused, naming each field that the event's model does not take."""
    try:
        document = json.loads(value)
    except (ValueError, RecursionError) as exc:
        raise errors.Refused(f"the new value is not JSON: {exc}", code="not_json") from exc
    structured = isinstance(document, dict) and "specversion" in document and isinstance(document.get("data"), dict)
    payload = document["data"] if structured else document
    if not isinstance(payload, dict):
        raise errors.Refused("the new value is no event: it must be a JSON object", code="not_an_event")
    if payload.get("event_id") is None:
        payload["event_id"] = row["event_id"] or str(uuid.uuid5(events.NAMESPACE, row["letter_id"]))
        value = dumped(document)
    event = events.read(json.dumps(payload).encode(), events.known())
    names = {"id": event.event_id, "type": event.event_type}
    if row["order_id"] is not None and event.order_id != row["order_id"]:
        names |= {
            name: event.order_id for name in ("subject", "partitionkey") if _around(held, document, structured, name) == row["order_id"]
        }
    if structured and any(document.get(name) not in {None, new} for name, new in names.items()):
        document |= {name: new for name, new in names.items() if document.get(name) is not None}
        value = dumped(document)
    headers = tuple((name, _followed(name, raw, names)) for name, raw in held.headers)
    key = held.key
    if key is not None and row["order_id"] is not None and key == row["order_id"].encode():
        key = event.order_id.encode()
    if (value, headers, key) == (held.value, held.headers, held.key):
        raise errors.Refused("nothing was changed", code="unchanged")
    return _drafted(row, held.body, event, (key, value, headers))


def difference(held: Record, made: Draft) -> str:
    """A unified diff of the record before and after, headers first, JSON indented."""
    before, after = _lines(held.headers, held.value), _lines(made.headers, made.value)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in difflib.unified_diff(before, after, "before", "after"))


def newest(tx: Transaction, row: Row) -> Row:
    """The version of a letter that would be sent. Raises Refused when it is done, discarded, or in an open run."""
    versions = query.lineage(tx, row["letter_id"])
    found = query.again(tx, versions[-1]["letter_id"])
    state = found["stored_state"]
    if state != "open":
        hint = ": `orderflow dlq restore` opens it again" if state == "discarded" else ", so there is nothing to edit"
        raise errors.Refused(f"letter {found['letter_id']} is {state}{hint}", code=f"letter_{state}")
    run = query.open_run(tx, found["letter_id"])
    if run is not None:
        raise errors.Refused(f"letter {found['letter_id']} is in the open run {run}; it can be edited when that has ended", code="in_a_run")
    return found


def supersede(old: Row, made: Draft, who: str, tx: Transaction) -> None:
    """Have the new letter in the old one's place. Raises Refused when the old one has changed since it was looked at."""
    found = newest(tx, old)
    if found["letter_id"] != old["letter_id"]:
        raise errors.Refused(f"letter {old['letter_id']} was edited at the same time: {found['letter_id']} is newer", code="edited")
    letters_index.index(tx, [made.entry])
    tx.run(_SUPERSEDE, old=old["letter_id"], new=made.letter_id)
    tx.run(_DESCEND, old=old["letter_id"], new=made.letter_id)
    tx.run(_HISTORY, id=old["letter_id"], what="superseded", who=who, detail=f"replaced by {made.letter_id}")
    tx.run(_HISTORY, id=made.letter_id, what="edited", who=who, detail=f"made from {old['letter_id']}")


def _drafted(row: Row, body: dict[str, Any], event: events.Event, record: tuple[bytes | None, bytes, Headers]) -> Draft:
    key, value, headers = record
    digest = hashlib.sha256(repr(record).encode()).hexdigest()
    letter_id = str(uuid.uuid5(events.NAMESPACE, f"edit/{row['letter_id']}/{digest}"))
    made = body | {
        "letter_id": letter_id,
        "parent_letter_id": row["letter_id"],
        "original_key": letter.base64_of(key),
        "original_value": letter.base64_of(value),
        "original_headers": None,
        "original_headers_packed": letter.base64_of(letter.pack(headers)),
        "original_exact": False,
        "event_type": event.event_type,
        "event_id": event.event_id,
        "order_id": event.order_id,
    }
    return Draft(letter_id, value, headers, letters.read(json.dumps(made).encode()))


def _holder(document: Any, path: str) -> tuple[Any, str]:
    """What holds the last part of `path`, and that part. `\\.` is a dot in a name. Ends the command when the way there is none."""
    parts = [re.sub(r"\\(.)", r"\1", part) for part in _PATH_PART.findall(path)]
    if not parts:
        raise terminal.usage(f"{path!r} is no path: write it as user_id, or data.items.0.quantity")
    for n, part in enumerate(parts):
        is_last = n == len(parts) - 1
        if isinstance(document, list) and part.isascii() and part.isdigit() and int(part) < len(document):
            document = document if is_last else document[int(part)]
        elif isinstance(document, dict) and (is_last or part in document):
            document = document if is_last else document[part]
        else:
            raise terminal.usage(f"{path}: there is no {'.'.join(parts[: n + 1])} to set in this value")
    return document, parts[-1]


def _given(text: str) -> Any:
    """A value on the command line: JSON where it reads as such, else text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _around(held: Record, document: Any, structured: bool, name: str) -> str | None:
    if structured:
        found = document.get(name)
        return found if isinstance(found, str) else None
    raw = next((raw for header, raw in held.headers if header.lower() == f"ce_{name}"), None)
    return None if raw is None else raw.decode("utf-8", "replace")


def _followed(name: str, raw: bytes | None, names: dict[str, str]) -> bytes | None:
    new = names.get(name.lower().removeprefix("ce_")) if name.lower().startswith("ce_") else None
    return raw if new is None or raw is None else new.encode()


def _lines(headers: Headers, value: bytes | None) -> list[str]:
    shown: Callable[[bytes | None], str] = lambda raw: "(null)" if raw is None else terminal.printable(raw)  # noqa: E731
    return [f"{name}: {shown(raw)}\n" for name, raw in headers] + view.pretty(value).splitlines(keepends=True)
