"""Questions to the index. A page of letters has no values, so a hundred thousand of them are looked through in little memory."""

from datetime import datetime
from typing import Any

from ops.dlq import filters
from ops.dlq.filters import Filter, State
from shared import errors
from shared.database import Transaction

COLUMNS = (
    "letter_id", "consumer", "topic", "partition", "message_offset", "dlq_topic", "dlq_partition", "dlq_offset", "event_id", "event_type",
    "order_id", "letter_key", "reason", "error_code", "error_message", "place", "fingerprint", "attempts", "failed_at", "last_failed_at",
    "times", "state_reason", "parent_letter_id", "replaced_by", "indexed_at",
)  # fmt: skip
AMBIGUOUS_SHOWN = 5
_SELECT = f"SELECT {', '.join(f'letter.{name}' for name in COLUMNS)}, letter.state, ({filters.WORD})"
_PAGE = (
    _SELECT
    + """
FROM dlq_letters AS letter
WHERE {where} AND (:at::timestamptz IS NULL OR (letter.failed_at, letter.letter_id) < (:at::timestamptz, :id::text))
ORDER BY letter.failed_at DESC, letter.letter_id DESC LIMIT :many::bigint
"""
)
_FIND = (
    _SELECT + " FROM dlq_letters AS letter WHERE starts_with(letter.letter_id, :prefix::text) ORDER BY letter.letter_id LIMIT :many::bigint"
)
_ONE = _SELECT + " FROM dlq_letters AS letter WHERE letter.letter_id = :id::text"
_GROUPS = """
WITH cause AS (
    SELECT letter.consumer, letter.fingerprint, min(letter.reason) AS reason, min(letter.error_code) AS code, min(letter.place) AS place,
           count(*) AS letters, count(DISTINCT letter.order_id) AS orders,
           min(letter.failed_at) AS first, max(letter.last_failed_at) AS last,
           EXTRACT(EPOCH FROM clock_timestamp() - min(letter.failed_at))::float8 AS oldest_s,
           substr(max(to_char(letter.last_failed_at, 'YYYYMMDDHH24MISSUS') || letter.letter_id), 21) AS example
    FROM dlq_letters AS letter WHERE {where} GROUP BY letter.consumer, letter.fingerprint)
SELECT cause.*, letter.error_message FROM cause JOIN dlq_letters AS letter ON letter.letter_id = cause.example
ORDER BY cause.letters DESC, cause.consumer, cause.fingerprint
"""
_GROUP_COLUMNS = (
    "consumer", "fingerprint", "reason", "error_code", "place", "letters", "orders", "first", "last", "oldest_seconds", "example",
    "error_message",
)  # fmt: skip
_STATS = f"""
SELECT letter.consumer, ({filters.WORD}) AS word, count(*), min(letter.failed_at), max(letter.last_failed_at),
       EXTRACT(EPOCH FROM clock_timestamp() - min(letter.failed_at))::float8
FROM dlq_letters AS letter WHERE {{where}} GROUP BY 1, 2 ORDER BY 1, 2
"""  # noqa: S608  likewise
_PARKED = "SELECT consumer, count(*) FROM parked_events WHERE state = 'parked' GROUP BY consumer"
_POSITIONS = "SELECT topic, partition, next_offset FROM dlq_positions ORDER BY topic, partition"
_HISTORY = "SELECT at, what, who, detail, run_id FROM dlq_history WHERE letter_id = :id ORDER BY at, n"
_LINEAGE = """
WITH RECURSIVE older AS (
    SELECT letter_id, parent_letter_id, 0 AS depth FROM dlq_letters WHERE letter_id = :id
    UNION ALL
    SELECT l.letter_id, l.parent_letter_id, depth - 1 FROM dlq_letters l JOIN older ON l.letter_id = older.parent_letter_id
    WHERE depth > -100
), younger AS (
    SELECT letter_id, replaced_by, 0 AS depth FROM dlq_letters WHERE letter_id = :id
    UNION ALL
    SELECT l.letter_id, l.replaced_by, depth + 1 FROM dlq_letters l JOIN younger ON l.letter_id = younger.replaced_by WHERE depth < 100
), versions AS (SELECT letter_id, depth FROM older UNION SELECT letter_id, depth FROM younger)
SELECT letter_id, state FROM versions JOIN dlq_letters USING (letter_id) ORDER BY depth
"""

Row = dict[str, Any]


def page(tx: Transaction, chosen: Filter, state: State, *, many: int, after: tuple[datetime, str] | None) -> tuple[list[Row], bool]:
    """Letters, the newest first, that failed before `after` (time and id of the last one seen); and whether there are more."""
    at, letter_id = after or (None, None)
    rows = tx.run(_PAGE.format(where=chosen.where(state)), at=at, id=letter_id, many=many + 1, **chosen.named())
    return [_row(row) for row in rows[:many]], len(rows) > many


def groups(tx: Transaction, chosen: Filter, state: State) -> list[Row]:
    """Letters by consumer and cause, the largest group first. `example` is the one that failed last."""
    rows = tx.run(_GROUPS.format(where=chosen.where(state)), **chosen.named())
    return [dict(zip(_GROUP_COLUMNS, row, strict=True)) for row in rows]


def stats(tx: Transaction, chosen: Filter) -> list[Row]:
    """How many letters of each consumer are in which state, with the time of the first and last failure."""
    columns = ("consumer", "state", "letters", "first", "last", "oldest_seconds")
    return [dict(zip(columns, row, strict=True)) for row in tx.run(_STATS.format(where=chosen.where(State.all)), **chosen.named())]


def parked(tx: Transaction) -> dict[str, int]:
    """How many events of each consumer wait behind a letter of their order."""
    return {consumer: int(count) for consumer, count in tx.run(_PARKED)}


def positions(tx: Transaction) -> list[Row]:
    """How far each dead-letter topic was read."""
    return [dict(zip(("topic", "partition", "next_offset"), row, strict=True)) for row in tx.run(_POSITIONS)]


class Ambiguous(errors.OrderflowError):
    """More than one letter begins so."""

    code = "ambiguous"


def one(tx: Transaction, prefix: str) -> Row:
    """The letter with this id, or the only one whose id begins so. Raises Refused, Ambiguous."""
    rows = [_row(row) for row in tx.run(_FIND, prefix=prefix, many=AMBIGUOUS_SHOWN + 1)] if prefix else []
    if not rows:
        raise errors.Refused(f"there is no letter {prefix!r} (`orderflow dlq list --state all` shows all)", code="unknown_letter")
    if len(rows) > 1 and rows[0]["letter_id"] != prefix:
        names = ", ".join(row["letter_id"] for row in rows[:AMBIGUOUS_SHOWN])
        raise Ambiguous(f"{prefix!r} is how several letters begin: {names}{', …' if len(rows) > AMBIGUOUS_SHOWN else ''}")
    return rows[0]


def again(tx: Transaction, letter_id: str) -> Row:
    """The letter as it is now, locked until the transaction ends: no replay begins to send it, and nobody else changes it."""
    tx.run("SELECT 1 FROM dlq_letters WHERE letter_id = :id FOR UPDATE", id=letter_id)
    return _row(tx.run(_ONE, id=letter_id)[0])


def value(tx: Transaction, letter_id: str) -> bytes:
    """The letter's JSON as on its topic."""
    return bytes(tx.run("SELECT value FROM dlq_letters WHERE letter_id = :id", id=letter_id)[0][0])


def history(tx: Transaction, letter_id: str) -> list[Row]:
    """What happened to the letter, in order."""
    return [dict(zip(("at", "what", "who", "detail", "run_id"), row, strict=True)) for row in tx.run(_HISTORY, id=letter_id)]


def lineage(tx: Transaction, letter_id: str) -> list[Row]:
    """The versions of the letter from the first to the newest, itself among them."""
    return [dict(zip(("letter_id", "state"), row, strict=True)) for row in tx.run(_LINEAGE, id=letter_id)]


def open_run(tx: Transaction, letter_id: str) -> str | None:
    """The open run that the letter belongs to, if any."""
    rows = tx.run("SELECT run_id FROM dlq_run_items WHERE letter_id = :id AND open", id=letter_id)
    return rows[0][0] if rows else None


def _row(row: list[Any]) -> Row:
    return dict(zip((*COLUMNS, "stored_state", "state"), row, strict=True))
