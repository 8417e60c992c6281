"""The relay's SQL: claim the heads of keys, claim what follows them, mark what became of them, and count.

A key is a topic and a record key; its head is the oldest row, by due time and then seq, that is neither sent nor discarded. Only heads
are claimed, so a failed one holds up its key. A claim holds two locks until its transaction ends. The row's lock: no relay publishes a row
twice at once. The key's (an advisory lock): a row that commits late can be older than the one in flight, and must wait for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from shared.database import Transaction

# What the index order_outbox_events_key holds. A collision of two keys costs a wait, never a wrong answer.
_KEY_HASH = "hashtextextended(encode({0}.record_key, 'hex'), hashtext({0}.topic))"
FOLLOWERS_MAX = 50  # rows of one key that one transaction publishes, one after the other
WINDOW_FACTOR = 8  # rows looked at for each row that is wanted, before the turn goes to the next
LOCKS_SHARE = 4  # a relay takes at most this part of the server's lock table
ERROR_CHARACTERS_MAX = 1000

_COLUMNS = "o.event_id, o.topic, o.record_key, o.payload, o.headers, o.due_at, o.seq"
# For a planner without statistics `= 'pending'` would be an invitation to search the index of due rows for every single id.
_STILL_PENDING = "o.status NOT IN ('sent', 'failed', 'discarded')"
# Payloads beyond the byte limit are not even read: the row comes back without one and is left for a later claim.
_BOUNDED = """
SELECT c.event_id, c.topic, c.record_key, c.headers::text AS headers,
       CASE WHEN sum(octet_length(c.payload)) OVER place <= {bytes_max} OR row_number() OVER place = 1 THEN c.payload END AS payload,
       extract(epoch FROM statement_timestamp() - c.due_at)::float8 AS waited_s, row_number() OVER place = 1 AS first{more}
FROM claimed AS c WHERE {condition} WINDOW place AS (ORDER BY c.due_at, c.seq)
"""
# The subquery with LIMIT 1 instead of NOT EXISTS: it cannot become a join, so it is an index look-up whatever the statistics say.
_HEADS = """
WITH head AS MATERIALIZED (
    SELECT w.event_id, w.due_at, w.seq FROM (
        SELECT event_id, topic, record_key, due_at, seq FROM order_outbox_events
        WHERE status = 'pending' AND due_at <= statement_timestamp() AND topic <> ALL(:held::text[])
          AND (due_at, seq) > (:due_at::timestamptz, :seq::bigint)
        ORDER BY due_at, seq LIMIT {window}
    ) AS w
    WHERE w.record_key IS NULL OR w.event_id = (
        SELECT f.event_id FROM order_outbox_events AS f
        WHERE {f_hash} = {w_hash} AND f.status IN ('pending', 'failed') AND f.record_key = w.record_key AND f.topic = w.topic
        ORDER BY f.due_at, f.seq LIMIT 1
    )
    LIMIT {rows}
), claimed AS MATERIALIZED (
    SELECT {columns} FROM head JOIN order_outbox_events AS o USING (event_id) WHERE {still_pending} FOR UPDATE OF o SKIP LOCKED
), bounded AS ({bounded})
SELECT CASE WHEN b.first IS NOT FALSE THEN last.about END, b.event_id, b.topic, b.record_key, b.headers, b.payload, b.waited_s
FROM (SELECT json_build_array(count(*) OVER (), due_at::text, seq)::text AS about FROM head ORDER BY head.due_at DESC, seq DESC LIMIT 1)
     AS last LEFT JOIN bounded AS b ON true
"""
# `w.`: a bare due_at would be the column of the result, a text, and every row that waits would be sorted by it.
_WINDOW_END = """
SELECT w.due_at::text, w.seq FROM order_outbox_events AS w
WHERE w.status = 'pending' AND w.due_at <= statement_timestamp() AND w.topic <> ALL(:held::text[])
  AND (w.due_at, w.seq) > (:due_at::timestamptz, :seq::bigint)
ORDER BY w.due_at, w.seq OFFSET {last} LIMIT 1
"""
_FOLLOWERS = """
WITH follower AS MATERIALIZED (
    SELECT h.event_id AS head, n.event_id, n.place
    FROM order_outbox_events AS h CROSS JOIN LATERAL (
        SELECT f.event_id, row_number() OVER (ORDER BY f.due_at, f.seq) AS place FROM (
            SELECT f.event_id, f.due_at, f.seq FROM order_outbox_events AS f
            WHERE {f_hash} = {h_hash} AND f.status IN ('pending', 'failed') AND f.record_key = h.record_key AND f.topic = h.topic
              AND (f.due_at, f.seq) > (h.due_at, h.seq) AND f.due_at <= statement_timestamp()
            ORDER BY f.due_at, f.seq LIMIT {followers}
        ) AS f
    ) AS n
    WHERE h.event_id = ANY(:heads::text[])
), claimed AS MATERIALIZED (
    SELECT {columns}, f.head, f.place FROM follower AS f JOIN order_outbox_events AS o USING (event_id)
    WHERE {still_pending} FOR UPDATE OF o SKIP LOCKED
)
SELECT b.head, b.place, b.event_id, b.topic, b.record_key, b.headers, b.payload, b.waited_s FROM ({bounded}) AS b ORDER BY b.head, b.place
"""
_SENT = """
UPDATE order_outbox_events SET status = 'sent', sent_at = clock_timestamp(), attempts = attempts + 1, last_error = NULL
WHERE event_id = ANY(:ids::text[])
"""
_FAILED = """
UPDATE order_outbox_events AS o SET status = 'failed', attempts = o.attempts + 1, last_error = f.error
FROM unnest(:ids::text[], :errors::text[]) AS f(event_id, error) WHERE o.event_id = f.event_id
"""
_NEXT_DUE = """
SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM order_outbox_events
WHERE status = 'pending' AND due_at > statement_timestamp() ORDER BY due_at LIMIT 1
"""
_DEPTH = """
SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'pending' AND due_at <= statement_timestamp()),
       count(*) FILTER (WHERE status = 'failed'),
       COALESCE(extract(epoch FROM statement_timestamp() - min(due_at) FILTER (WHERE status = 'pending')), 0)::float8
FROM order_outbox_events WHERE status IN ('pending', 'failed')
"""
# However many rows wait, the way is along the indexes, in order, to the first few hundred. The planner, which guesses how many rows a
# parameter leaves, would at times rather read and sort them all. The update of no row takes the lock that `mark` needs: where a change
# of the table holds it, nothing is published that could then not be marked.
_PREPARE = """
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
UPDATE order_outbox_events SET status = status WHERE false
"""
_LOCK_SLOTS = "SELECT current_setting('max_locks_per_transaction')::int * current_setting('max_connections')::int"
_headers: msgspec.json.Decoder[dict[str, str | bytes | None]] = msgspec.json.Decoder(dict[str, str])


class Position(NamedTuple):
    """A place in the order of due times. `due_at` is the database's own text of it."""

    due_at: str
    seq: int


START = Position("-infinity", 0)


@dataclass(slots=True, eq=False)
class Row:
    """A claimed row. `headers` is its JSON text; it had waited for `waited_s` seconds, by the database's clock, when it was claimed."""

    event_id: str
    topic: str
    key: bytes | None
    headers: str
    value: bytes
    waited_s: float

    def record_headers(self) -> dict[str, str | bytes | None]:
        """The record's headers. Raises ValueError where the column holds anything but an object of texts."""
        return _headers.decode(self.headers)


@dataclass(frozen=True, slots=True)
class Claim:
    """What one look at the outbox gave: rows to publish by key, and where the next look goes on (None: all was seen)."""

    lines: list[list[Row]]
    beyond: Position | None


@dataclass(frozen=True, slots=True)
class Depth:
    """How many rows wait, wait although they are due, or were set aside, and how late the oldest due row is."""

    pending: int
    due: int
    failed: int
    oldest_due_seconds: float


class Claims:
    """The claims of one process, within its limits of rows and bytes."""

    def __init__(self, *, rows_max: int, bytes_max: int, workers: int) -> None:
        self._rows_max, self._bytes_max, self._workers = rows_max, bytes_max, workers
        self._rows = 0

    def take(self, tx: Transaction, after: Position, held_topics: Sequence[str]) -> Claim:
        """Claim heads that are due and lie after `after`, oldest first, but none of `held_topics`."""
        if not self._rows:
            self._prepare(int(tx.run(_LOCK_SLOTS)[0][0]))
        tx.run(_PREPARE)
        found = tx.run(self._heads, due_at=after.due_at, seq=after.seq, held=held_topics)
        lines = [[_row(row[1:])] for row in found if row[5] is not None]
        if found:
            heads, *last = msgspec.json.decode(next(row[0] for row in found if row[0]))
            if heads == self._rows:
                return Claim(lines, Position(*last))
        keyed = {line[0].event_id: line for line in lines if line[0].key is not None}
        if keyed and len(lines) <= max(1, self._rows // FOLLOWERS_MAX):
            self._follow(tx, keyed)
        end = tx.run(self._window_end, due_at=after.due_at, seq=after.seq, held=held_topics)
        return Claim(lines, Position(*end[0]) if end else None)

    def _follow(self, tx: Transaction, keyed: dict[str, list[Row]]) -> None:
        """Few keys have many rows: claim what follows each head without a gap, so that a long queue of one key does not crawl."""
        for head, place, *columns in tx.run(self._followers, heads=list(keyed)):
            line = keyed[head]
            if place == len(line) and columns[4] is not None:
                line.append(_row(columns))

    def _prepare(self, lock_slots: int) -> None:
        self._rows = max(1, min(self._rows_max, lock_slots // LOCKS_SHARE // self._workers))
        window = self._rows * WINDOW_FACTOR
        lock = f"(c.record_key IS NULL OR pg_try_advisory_xact_lock({_KEY_HASH.format('c')}))"
        parts = {"columns": _COLUMNS, "still_pending": _STILL_PENDING}
        parts |= {f"{alias}_hash": _KEY_HASH.format(alias) for alias in ("f", "w", "h")}
        bounded = _BOUNDED.format(bytes_max=self._bytes_max, condition=lock, more="")
        self._heads = _HEADS.format(window=window, rows=self._rows, bounded=bounded, **parts)
        bounded = _BOUNDED.format(bytes_max=self._bytes_max, condition="true", more=", c.head, c.place")
        self._followers = _FOLLOWERS.format(followers=FOLLOWERS_MAX, bounded=bounded, **parts)
        self._window_end = _WINDOW_END.format(last=window - 1)


def mark(tx: Transaction, sent: Sequence[Row], failed: Sequence[tuple[Row, str]]) -> None:
    """Record what became of claimed rows; `failed` come with their errors."""
    if sent:
        tx.run(_SENT, ids=[row.event_id for row in sent])
    if failed:
        cleaned = [error.replace("\x00", " ")[:ERROR_CHARACTERS_MAX] for _, error in failed]
        tx.run(_FAILED, ids=[row.event_id for row, _ in failed], errors=cleaned)


def next_due_s(tx: Transaction) -> float | None:
    """Seconds until the next row that is not yet due will be, by the database's clock; None when there is none."""
    found = tx.run(_NEXT_DUE)
    return max(0.0, found[0][0]) if found else None


def depth(tx: Transaction) -> Depth:
    """The state of the outbox. It reads the unsent rows only."""
    pending, due, failed, oldest_s = tx.run(_DEPTH)[0]
    return Depth(pending, due, failed, max(0.0, oldest_s))


def _row(columns: Sequence[Any]) -> Row:
    event_id, topic, key, headers, value, waited_s = columns
    return Row(event_id, topic, key, headers, value, waited_s)
