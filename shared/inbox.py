"""The claim that makes a repeated event have no second effect: its row in the inbox, in the transaction of the effect."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Literal

from shared import errors, events
from shared.database import Transaction

# What became of an event: it is ours to handle, it was handled before, or its id belongs to another event.
Claim = Literal["claimed", "duplicate"] | errors.Refused


def claim(tx: Transaction, table: str, wanted: Sequence[events.Event]) -> list[Claim]:
    """Claim `wanted`, each with an id of its own, in the inbox `table`. One claim for each, in their order.

    A row that another transaction is inserting is waited for: Busy after `lock_timeout`. Ids are inserted in their order, so that two
    transactions with the same ids queue up instead of locking each other out. Raises what the database raises.
    """
    ordered = sorted(wanted, key=attrgetter("event_id"))
    [[number, ours]] = tx.run(
        # One row, and the ids in it only where some are not ours: to read a row for each takes longer than all the rest.
        f"WITH claimed AS (INSERT INTO {table} (event_id, event_type, occurred_at, order_id)"  # noqa: S608  the name of a table of ours
        " SELECT * FROM unnest(:ids::text[], :event_types::text[], :occurred_at::timestamptz[], :order_ids::text[])"
        " ON CONFLICT (event_id) DO NOTHING RETURNING event_id)"
        " SELECT count(*), json_agg(event_id) FILTER (WHERE (SELECT count(*) FROM claimed) < :number::int) FROM claimed",
        ids=[event.event_id for event in ordered],
        event_types=[event.event_type for event in ordered],
        occurred_at=[event.occurred_at for event in ordered],
        order_ids=[event.order_id for event in ordered],
        number=len(ordered),
    )
    if number == len(wanted):
        return ["claimed"] * number
    claimed = set(ours or ())
    known = _known(tx, table, [event.event_id for event in wanted if event.event_id not in claimed])
    return ["claimed" if event.event_id in claimed else judged(event, known.get(event.event_id)) for event in wanted]


def judged(event: events.Event, known: tuple[str, str] | None) -> Claim:
    """What `event` is to the event that holds its id, given as type and order id: the same, or another one that reuses the id."""
    if known is None or known == (event.event_type, event.order_id):
        return "duplicate"
    return errors.Refused("event_id: belongs to another event, of another type or order", code="event_id_reused")


def _known(tx: Transaction, table: str, ids: list[str]) -> Mapping[str, tuple[str, str]]:
    rows = tx.run(f"SELECT event_id, event_type, order_id FROM {table} WHERE event_id = ANY(:ids::text[])", ids=ids)  # noqa: S608
    return {event_id: (event_type, order_id) for event_id, event_type, order_id in rows}
