"""What a run is to send, written down whole before the first of it is sent: what comes later is not slipped into it.

A letter belongs to one open run at most, by a unique index. Where another run has it already it is left out, and that run is named.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from ops.dlq import runs
from ops.dlq.originals import Original
from shared import retention, topics
from shared.config import Settings
from shared.database import Database, Transaction

TAKEN_SHOWN = 20
_ROWS, _BYTES = 500, 4 << 20  # of one statement

# Reach: how far back the inbox of a letter's consumer is sure to know what was handled.
_CHOSEN = """
FROM dlq_letters AS letter
LEFT JOIN unnest(:consumers::text[], :limits::timestamptz[]) AS reach(consumer, since) ON reach.consumer = letter.consumer
WHERE letter.state = 'open' AND ({where})
"""
_OLD = "NOT :force::boolean AND reach.since IS NOT NULL AND letter.last_failed_at < reach.since"
_FREEZE = """
INSERT INTO dlq_run_items (run_id, n, letter_id, consumer, lane, event_id)
SELECT :run, row_number() OVER (ORDER BY letter.topic, letter.partition NULLS FIRST, letter.message_offset NULLS FIRST,
                                letter.failed_at, letter.letter_id),
       letter.letter_id, letter.consumer, letter.letter_key, letter.event_id
{chosen} AND NOT ({old})
ON CONFLICT (letter_id) WHERE open AND letter_id IS NOT NULL DO NOTHING
"""
_TAKEN = """
SELECT run_id, max(n), array_agg(letter_id ORDER BY n) FILTER (WHERE n <= {shown}) FROM (
    SELECT item.run_id, letter.letter_id, row_number() OVER (PARTITION BY item.run_id ORDER BY letter.failed_at, letter.letter_id) AS n
    {chosen} AND NOT ({old})) AS taken
GROUP BY run_id ORDER BY run_id
"""
_JOINED = "JOIN dlq_run_items AS item ON item.letter_id = letter.letter_id AND item.open AND item.run_id <> :run\nWHERE"
_OF_RUN = "SELECT consumer, count(*) FROM dlq_run_items WHERE run_id = :run GROUP BY consumer ORDER BY consumer"
_FROZEN = """
UPDATE dlq_runs SET selection = selection || '{"frozen": true}'::jsonb, target = :target, options = options || :options::jsonb,
       heartbeat_at = clock_timestamp() WHERE run_id = :run
"""
_ADD = """
INSERT INTO dlq_run_items (run_id, n, item, consumer, lane, event_id)
SELECT :run, u.* FROM unnest(:ns::int[], :items::bytea[], :consumers::text[], :lanes::text[], :event_ids::text[]) AS u
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which open letters: a condition on `letter`, its parameters, and the same in words."""

    where: str
    params: Mapping[str, Any]
    told: Mapping[str, Any]


class Taken(NamedTuple):
    """Letters that another open run has; the first of them by id."""

    run_id: str
    letters: int
    letter_ids: Sequence[str]


class Frozen(NamedTuple):
    """What a selection came to."""

    by_consumer: Mapping[str, int]
    taken: Sequence[Taken] = ()
    too_old: int = 0

    @property
    def total(self) -> int:
        """How many are to be sent."""
        return sum(self.by_consumer.values())


def letters(tx: Transaction, run: runs.Run, wanted: Wanted, reach: Mapping[str, datetime], *, force: bool) -> Frozen:
    """Write the letters that `wanted` names down as the items of `run`, in their original order."""
    chosen = _CHOSEN.format(where=wanted.where)
    common = {"consumers": list(reach), "limits": list(reach.values()), "force": force} | dict(wanted.params)
    tx.run(_FREEZE.format(chosen=chosen, old=_OLD), run=run.run_id, **common)
    taken = tx.run(_TAKEN.format(chosen=chosen.replace("WHERE", _JOINED, 1), old=_OLD, shown=TAKEN_SHOWN), run=run.run_id, **common)
    old = tx.run(f"SELECT count(*) {chosen} AND ({_OLD})", **common)
    return Frozen(of_run(tx, run.run_id), [Taken(*row) for row in taken], int(old[0][0]))


def events(database: Database, run: runs.Run, found: Iterable[tuple[Original, Sequence[str]]]) -> Frozen:
    """Write records down as the items of `run`, each for these consumers, a few hundred at a time."""
    rows: list[tuple[int, bytes, str, str | None, str | None]] = []
    n = size = 0
    for original, consumers in found:
        packed, known, lane = original.pack(), original.known(), original.lane()
        for consumer in consumers:
            n, size = n + 1, size + len(packed)
            rows.append((n, packed, consumer, lane, known.event_id))
        if len(rows) >= _ROWS or size >= _BYTES:
            _add(database, run, rows)
            rows, size = [], 0
    _add(database, run, rows)
    return Frozen(database.transact(lambda tx: of_run(tx, run.run_id)))


def complete(tx: Transaction, run: runs.Run, target: str, options: Mapping[str, Any]) -> runs.Run:
    """Say that the selection of `run` is whole. The run as it is now."""
    tx.run(_FROZEN, run=run.run_id, target=target, options=options)
    return runs.read(tx, run.run_id)


def of_run(tx: Transaction, run_id: str) -> dict[str, int]:
    """How many items a run has for each consumer."""
    return {consumer: int(count) for consumer, count in tx.run(_OF_RUN, run=run_id)}


def reach(settings: Settings) -> dict[str, datetime]:
    """Since when each consumer's inbox is sure to know every event that it handled; none for one that forgets nothing."""
    catalogue, now = topics.catalogue(settings), datetime.now(UTC)
    reaches = {consumer.group: retention.reach_s(consumer.inbox, catalogue) for _, consumer in catalogue.consumers()}
    return {group: now - timedelta(seconds=reach_s) for group, reach_s in reaches.items() if reach_s != math.inf}


def _add(database: Database, run: runs.Run, rows: Sequence[tuple[int, bytes, str, str | None, str | None]]) -> None:
    if not rows:
        return
    ns, items, consumers, lanes, event_ids = (list(column) for column in zip(*rows, strict=True))
    database.transact(lambda tx: tx.run(_ADD, run=run.run_id, ns=ns, items=items, consumers=consumers, lanes=lanes, event_ids=event_ids))
