"""The index of dead letters: a row for each letter in PostgreSQL. The topics stay the truth; reading one again changes nothing here.

A letter may be written again and again: by the same failure (a late confirmation, a rebuild that reads the topic from its beginning) or
because its record failed once more. The time of the failure tells the two apart: `failed_at` of the first, and a line of history for
each later one. A state that a person or a replay gave is left as it is, but for a letter that was done and has failed since.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from shared.database import Transaction
from shared.letters import Entry

_COLUMNS = {
    "letter_id": "text", "consumer": "text", "topic": "text", "partition": "bigint", "message_offset": "bigint", "event_id": "text",
    "event_type": "text", "order_id": "text", "letter_key": "text", "reason": "text", "error_code": "text", "error_message": "text",
    "place": "text", "fingerprint": "text", "attempts": "bigint", "failed_at": "timestamptz", "value": "bytea", "dlq_topic": "text",
    "dlq_partition": "integer", "dlq_offset": "bigint",
}  # fmt: skip
_ROWS = f"unnest({', '.join(f':{name}::{kind}[]' for name, kind in _COLUMNS.items())}) AS u({', '.join(_COLUMNS)})"
_INSERT = f"""
INSERT INTO dlq_letters ({", ".join(_COLUMNS)}, last_failed_at)
SELECT {", ".join(_COLUMNS)}, failed_at FROM {_ROWS} ON CONFLICT (letter_id) DO NOTHING RETURNING letter_id
"""  # noqa: S608  the columns are constants
_HELD = """
SELECT letter_id, failed_at, last_failed_at, dlq_offset IS NOT NULL,
       (SELECT max(at) FROM dlq_history h WHERE h.letter_id = l.letter_id AND what = 'done'), state
FROM dlq_letters l WHERE letter_id = ANY(:ids::text[]) ORDER BY letter_id FOR UPDATE
"""
_WRITTEN = """
SELECT letter_id, at FROM dlq_history WHERE letter_id = ANY(:ids::text[]) AND what = 'failed again' AND run_id IS NULL
"""
_AGAIN = """
INSERT INTO dlq_history (letter_id, at, what, who, detail)
SELECT letter_id, at, 'failed again', 'dlq_router', detail
FROM unnest(:ids::text[], :at::timestamptz[], :details::text[]) AS u(letter_id, at, detail)
ON CONFLICT (letter_id, at) WHERE what = 'failed again' AND run_id IS NULL DO NOTHING
"""
_TIMES = """
UPDATE dlq_letters l SET times = times + u.more, failed_at = LEAST(l.failed_at, u.first)
FROM unnest(:ids::text[], :more::integer[], :first::timestamptz[]) AS u(letter_id, more, first) WHERE l.letter_id = u.letter_id
"""
# The newest failure is the one that is shown.
_NEWEST = f"""
UPDATE dlq_letters l SET last_failed_at = u.failed_at, reason = u.reason, error_code = u.error_code, error_message = u.error_message,
       place = u.place, fingerprint = u.fingerprint, attempts = u.attempts, value = u.value
FROM {_ROWS} WHERE l.letter_id = u.letter_id
"""  # noqa: S608  likewise
_REOPEN = "UPDATE dlq_letters SET state = 'open', state_reason = NULL WHERE letter_id = ANY(:ids::text[]) AND state = 'done'"
_PLACES = """
UPDATE dlq_letters l SET dlq_topic = u.topic, dlq_partition = u.partition, dlq_offset = u.message_offset
FROM unnest(:ids::text[], :topics::text[], :partitions::integer[], :offsets::bigint[]) AS u(letter_id, topic, partition, message_offset)
WHERE l.letter_id = u.letter_id AND l.dlq_offset IS NULL
"""


def index(tx: Transaction, letters: Iterable[Entry]) -> list[str]:
    """Have a row for each of `letters`, and a line of history for each failure that is new. The ids of letters that were not there.

    Letters may repeat, here and in other transactions at the same time. Raises what the database raises.
    """
    by_id: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(letters, key=lambda entry: (entry.letter_id, entry.failed_at)):
        by_id[entry.letter_id].append(entry)
    if not by_id:
        return []
    new = [row[0] for row in tx.run(_INSERT, **_rows([entries[0] for entries in by_id.values()]))]
    again = {letter_id: entries for letter_id, entries in by_id.items() if letter_id not in set(new) or len(entries) > 1}
    if again:
        _index_again(tx, again)
    return new


def _index_again(tx: Transaction, by_id: dict[str, list[Entry]]) -> None:
    """Letters that have a row: count the failures that are new, and show the newest."""
    ids = list(by_id)
    held = {row[0]: row[1:] for row in tx.run(_HELD, ids=ids)}
    known: dict[str, set[datetime]] = defaultdict(set)
    for letter_id, at in tx.run(_WRITTEN, ids=ids):
        known[letter_id].add(at)
    added: list[tuple[str, datetime, str]] = []
    times: list[tuple[str, int, datetime]] = []
    newest: list[Entry] = []
    reopened: list[str] = []
    placed: list[Entry] = []
    for letter_id, (first, last, has_place, done_at, state) in held.items():
        entries = by_id[letter_id]
        told = {entry.failed_at: f"{entry.reason}: {entry.error_code}{f' {entry.place}' if entry.place else ''}" for entry in entries}
        fresh = told.keys() - known[letter_id] - {first}
        if fresh:
            earliest = min(first, *fresh)
            lines = (fresh | {first}) - {earliest} - known[letter_id]
            added += [(letter_id, at, told.get(at, "an earlier failure was found")) for at in sorted(lines)]
            times.append((letter_id, len(fresh), earliest))
        if entries[-1].failed_at > last:
            newest.append(entries[-1])
            if state == "done" and (done_at is None or entries[-1].failed_at > done_at):
                reopened.append(letter_id)
        if not has_place:
            placed += [entry for entry in entries if entry.dlq_offset is not None][:1]
    _write_again(tx, added, times, newest, placed)
    if reopened:
        tx.run(_REOPEN, ids=reopened)


def _write_again(
    tx: Transaction,
    added: Sequence[tuple[str, datetime, str]],
    times: Sequence[tuple[str, int, datetime]],
    newest: Sequence[Entry],
    placed: Sequence[Entry],
) -> None:
    if added:
        tx.run(_AGAIN, ids=[row[0] for row in added], at=[row[1] for row in added], details=[row[2] for row in added])
    if times:
        tx.run(_TIMES, ids=[row[0] for row in times], more=[row[1] for row in times], first=[row[2] for row in times])
    if newest:
        tx.run(_NEWEST, **_rows(newest))
    if placed:
        tx.run(
            _PLACES,
            ids=[entry.letter_id for entry in placed],
            topics=[entry.dlq_topic for entry in placed],
            partitions=[entry.dlq_partition for entry in placed],
            offsets=[entry.dlq_offset for entry in placed],
        )


def _rows(entries: Sequence[Entry]) -> dict[str, list[Any]]:
    return {name: [getattr(entry, name) for entry in entries] for name in _COLUMNS}
