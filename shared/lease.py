"""The inbox of a function whose effect lies outside the database: a row is claimed with a lease, and marked when the effect is done.

claimed (commit) → the effect → sent (commit). A lease that ended is taken over, so an effect can repeat where its outcome was not
recorded, and only there. All times are the database's.
"""

import secrets
from dataclasses import dataclass
from typing import Literal

from shared import errors, events, inbox
from shared.database import Database, Transaction
from shared.parking import Parking


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on one event until the lease ends.

    `attempt` counts the leases since an outcome was recorded: with 2 and above nobody knows whether the effect happened already.
    """

    token: str
    attempt: int


# A lease that was given back has ended; its row is taken over like one whose owner died.
_TAKE = """
INSERT INTO {table} AS held
    (event_id, event_type, occurred_at, order_id, topic, partition, message_offset, status, lease_token, lease_ends_at)
VALUES (:id, :event_type, :occurred_at::timestamptz, :order_id, :topic, :partition::int, :offset::bigint, 'claimed', :token,
        clock_timestamp() + make_interval(secs => :lease_s::float8))
ON CONFLICT (event_id) DO UPDATE
    SET lease_token = excluded.lease_token, lease_ends_at = excluded.lease_ends_at, attempts = held.attempts + 1
    WHERE held.status = 'claimed' AND held.lease_ends_at <= clock_timestamp()
      AND held.event_type = excluded.event_type AND held.order_id = excluded.order_id
RETURNING attempts
"""
_HELD = """
SELECT status, event_type, order_id, EXTRACT(EPOCH FROM lease_ends_at - clock_timestamp())::float8 FROM {table} WHERE event_id = :id
"""
_MARK = """
UPDATE {table} SET status = 'sent', processed_at = clock_timestamp(), lease_token = NULL, lease_ends_at = NULL
WHERE event_id = :id AND lease_token = :token RETURNING event_id
"""
_GIVE_BACK = "UPDATE {table} SET lease_ends_at = clock_timestamp(), attempts = 0 WHERE event_id = :id AND lease_token = :token"


class LeasedInbox:
    """Leases in the inbox `table`, each `lease_s` seconds long."""

    def __init__(self, database: Database, table: str, lease_s: float, parking: Parking | None = None) -> None:
        self._database = database
        self._lease_s = lease_s
        self._parking = parking
        self._take, self._held, self._mark, self._give_back = (sql.format(table=table) for sql in (_TAKE, _HELD, _MARK, _GIVE_BACK))

    async def take(self, event: events.Event) -> Lease | Literal["duplicate", "parked"]:
        """Claim `event`, or park it. Raises Busy, with its rest, while another lease on it lives, and Refused when its id is another's."""
        token = secrets.token_hex(16)
        place = event.context

        def work(tx: Transaction) -> Lease | Literal["duplicate", "parked"]:
            parked = self._parking.aside(tx, [event]).get(event.event_id) if self._parking else None
            if isinstance(parked, errors.Refused):
                raise parked
            if parked is not None:
                return parked
            taken = tx.run(
                self._take,
                id=event.event_id,
                event_type=event.event_type,
                occurred_at=event.occurred_at,
                order_id=event.order_id,
                topic=place.topic,
                partition=place.partition,
                offset=place.offset,
                token=token,
                lease_s=self._lease_s,
            )
            if taken:
                return Lease(token, int(taken[0][0]))
            return self._judged(event, tx.run(self._held, id=event.event_id))

        return await self._database.run(work)

    async def mark(self, event: events.Event, lease: Lease) -> bool:
        """Record that the effect is done. False when the lease is no longer ours. Raises Unavailable."""
        rows = await self._database.run(lambda tx: tx.run(self._mark, id=event.event_id, token=lease.token))
        return bool(rows)

    async def give_back(self, event: events.Event, lease: Lease) -> None:
        """End the lease now: the effect did not happen, and may be tried again at once. Raises Unavailable."""
        await self._database.run(lambda tx: tx.run(self._give_back, id=event.event_id, token=lease.token))

    def _judged(self, event: events.Event, held: list[list[object]]) -> Literal["duplicate"]:
        if not held:
            raise errors.Busy("its inbox row was removed at this moment", code="locked")
        status, event_type, order_id, rest_s = held[0]
        claim = inbox.judged(event, (str(event_type), str(order_id)))
        if isinstance(claim, errors.Refused):
            raise claim
        if status == "sent":
            return "duplicate"
        rest_s = max(0.0, float(str(rest_s)))
        raise errors.Busy(f"another delivery of it is at work; its lease ends in {rest_s:.1f} s", code="leased", retry_after_s=rest_s)
