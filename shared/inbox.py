"""The claim that makes a repeated event have no second effect: its row in the inbox, in the transaction of the effect."""

import time
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Literal

from shared import errors, events
from shared.database import Transaction

# What became of an event: it is ours to handle, it was handled before, or its id belongs to another event.
Claim = Literal["claimed", "duplicate"] | errors.Refused

REPEATS_S = 60.0  # repeats come in bursts: after a start, a rebalance, a replay
_INSERT = """
INSERT INTO {table} (event_id, event_type, occurred_at, order_id)
SELECT * FROM unnest(:ids::text[], :event_types::text[], :occurred_at::timestamptz[], :order_ids::text[])
"""
# One row, and the ids in it only where some are not ours: to read a row for each takes longer than all the rest.
_CLAIM = f"""
WITH claimed AS ({_INSERT} ON CONFLICT (event_id) DO NOTHING RETURNING event_id)
SELECT count(*), json_agg(event_id) FILTER (WHERE (SELECT count(*) FROM claimed) < :number::int) FROM claimed
"""  # noqa: S608  constants, and the name of a table of ours


class Inbox:
    """The inbox `table` as one process claims in it. Safe to share between threads.

    Nearly all events come once, and for them a plain insert costs PostgreSQL a sixth less than one that looks for each row before
    (decision 27). So for REPEATS_S after a claim that met no repeat the next ones are plain. One that meets a row is lost with its
    transaction, which comes again at once and claims with care, as do all until REPEATS_S after the last repeat. A table that has lost its
    key would let every repeat in by a plain insert; the claim with care fails there, and so does each one after it.
    """

    def __init__(self, table: str) -> None:
        self._table = table
        self._plain_until = self._careful_until = float("-inf")

    def claim(self, tx: Transaction, wanted: Sequence[events.Event]) -> list[Claim]:
        """What `claim` gives. Raises Conflict as well, after which the same transaction succeeds."""
        now = time.monotonic()
        if now < self._plain_until:
            try:
                tx.run(_INSERT.format(table=self._table), **_columns(wanted))
            except errors.Refused as exc:
                self._met_a_repeat(now)
                raise errors.Conflict("some of these events have their row already") from exc
            return ["claimed"] * len(wanted)
        claims = claim(tx, self._table, wanted)
        if any(each != "claimed" for each in claims):
            self._met_a_repeat(now)
        elif now >= self._careful_until:
            self._plain_until = now + REPEATS_S
        return claims

    def _met_a_repeat(self, now: float) -> None:
        self._plain_until, self._careful_until = float("-inf"), now + REPEATS_S


def claim(tx: Transaction, table: str, wanted: Sequence[events.Event]) -> list[Claim]:
    """Claim `wanted`, each with an id of its own, in the inbox `table`. One claim for each, in their order.

    A row that another transaction is inserting is waited for: Busy after `lock_timeout`. Ids are inserted in their order, so that two
    transactions with the same ids queue up instead of locking each other out. Raises what the database raises.
    """
    [[number, ours]] = tx.run(_CLAIM.format(table=table), number=len(wanted), **_columns(wanted))
    if number == len(wanted):
        return ["claimed"] * number
    claimed = set(ours or ())
    known = _known(tx, table, [event.event_id for event in wanted if event.event_id not in claimed])
    return ["claimed" if event.event_id in claimed else judged(event, known.get(event.event_id)) for event in wanted]


def _columns(wanted: Sequence[events.Event]) -> dict[str, object]:
    """What `_INSERT` needs, in the order of the ids."""
    ordered = sorted(wanted, key=attrgetter("event_id"))
    return {
        "ids": [event.event_id for event in ordered],
        "event_types": [event.event_type for event in ordered],
        "occurred_at": [event.occurred_at for event in ordered],
        "order_ids": [event.order_id for event in ordered],
    }


def judged(event: events.Event, known: tuple[str, str] | None) -> Claim:
    """What `event` is to the event that holds its id, given as type and order id: the same, or another one that reuses the id."""
    if known is None or known == (event.event_type, event.order_id):
        return "duplicate"
    return errors.Refused("event_id: belongs to another event, of another type or order", code="event_id_reused")


def _known(tx: Transaction, table: str, ids: list[str]) -> Mapping[str, tuple[str, str]]:
    rows = tx.run(f"SELECT event_id, event_type, order_id FROM {table} WHERE event_id = ANY(:ids::text[])", ids=ids)  # noqa: S608
    return {event_id: (event_type, order_id) for event_id, event_type, order_id in rows}
