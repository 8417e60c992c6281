"""What is parked behind the letters of a key, for who sends those again: the lock on the key, and its events in their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared import events, parking
from shared.database import Transaction

_GATE = f"SELECT pg_advisory_xact_lock(hashtextextended(:consumer, {parking.GATE_SEED}))"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A parked event: its payload byte for byte, and what came beside it."""

    event_id: str
    event_type: str
    order_id: str
    occurred_at: datetime
    payload: bytes
    context: events.Context
    parked_at: datetime


# What lies before the first parked event, or where nobody knows, holds it up; a letter of a later record of the key does not.
_FIRST = """
SELECT p.event_id, p.event_type, p.order_id, p.occurred_at, p.payload, p.context, p.parked_at FROM parked_events AS p
WHERE p.consumer = :consumer AND p.letter_key = :key AND p.state = 'parked' AND NOT EXISTS (
    SELECT 1 FROM dlq_letters AS l WHERE l.consumer = p.consumer AND l.letter_key = p.letter_key AND l.state = 'open'
    AND (l.topic = p.context ->> 'topic' AND l.partition = (p.context ->> 'partition')::bigint
         AND l.message_offset > (p.context ->> 'offset')::bigint) IS NOT TRUE)
ORDER BY p.seq LIMIT 1
"""
_LET_GO = "UPDATE parked_events SET state = 'replayed' WHERE consumer = :consumer AND event_id = :id AND state = 'parked'"
_KEY_SEED = 12
_HOLD = f"SELECT pg_try_advisory_lock(hashtextextended(:consumer || E'\\n' || :key, {_KEY_SEED}))"
_RELEASE = f"SELECT pg_advisory_unlock(hashtextextended(:consumer || E'\\n' || :key, {_KEY_SEED}))"
_FREE_KEYS = """
SELECT DISTINCT p.consumer, p.letter_key FROM parked_events AS p WHERE p.consumer = :consumer AND p.state = 'parked' AND NOT EXISTS (
    SELECT 1 FROM dlq_letters AS l WHERE l.consumer = p.consumer AND l.letter_key = p.letter_key AND l.state = 'open')
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a consumer group, for who sends its letters and then what is parked behind them.

    `hold` it for the whole of that, on a connection that is kept; send the letter; then again and again the `first` parked event, each
    taken off by `replayed` once it was handled. A key is free as soon as it has neither an open letter nor a parked event: no switch says
    so, and nothing is left behind by who was killed in between.
    """

    consumer: str
    letter_key: str

    def hold(self, session: Transaction) -> bool:
        """Take the lock on the key for this session, if no other has it. The lock ends with the connection."""
        return bool(session.run(_HOLD, consumer=self.consumer, key=self.letter_key)[0][0])

    def release(self, session: Transaction) -> None:
        """Let go of the lock."""
        session.run(_RELEASE, consumer=self.consumer, key=self.letter_key)

    def first(self, tx: Transaction) -> Waiting | None:
        """The parked event that comes next; None when none is left, or an open letter lies before it. To be committed at once."""
        tx.run(_GATE, consumer=self.consumer)
        rows = tx.run(_FIRST, consumer=self.consumer, key=self.letter_key)
        return _waiting(rows[0]) if rows else None

    def replayed(self, tx: Transaction, event_id: str) -> None:
        """Take a parked event off: it was handled, or has a letter of its own now."""
        tx.run(_GATE, consumer=self.consumer)
        tx.run(_LET_GO, consumer=self.consumer, id=event_id)


def free_keys(tx: Transaction, consumer: str) -> list[Key]:
    """The keys of `consumer` with parked events that no open letter holds up: after a letter was discarded, or a replay was killed."""
    tx.run(_GATE, consumer=consumer)
    return [Key(of, key) for of, key in tx.run(_FREE_KEYS, consumer=consumer)]


def waits(tx: Transaction, consumers: Sequence[str]) -> set[str]:
    """Those of `consumers` that have parked events."""
    found = tx.run(
        "SELECT DISTINCT consumer FROM parked_events WHERE consumer = ANY(:consumers::text[]) AND state = 'parked'", consumers=[*consumers]
    )
    return {row[0] for row in found}


def _waiting(row: Sequence[Any]) -> Waiting:
    event_id, event_type, order_id, occurred_at, payload, context, parked_at = row
    return Waiting(event_id, event_type, order_id, occurred_at, bytes(payload), events.Context(**context), parked_at)
