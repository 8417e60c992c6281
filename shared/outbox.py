"""Events staged in the transaction that caused them. connectors/outbox_relay publishes them; functions never speak to Kafka.

A notification is only a hint that a row is there. It is sent after the commit and at most once in 50 ms: inside the transaction
PostgreSQL would take a lock that lets one commit at a time through.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import datetime

import msgspec

from shared import errors, events
from shared.config import Settings
from shared.database import Database, Transaction

log = logging.getLogger(__name__)

CHANNEL = "order_outbox_events"
HINT_INTERVAL_S = 0.05

# A row whose id is there already is the same event made again: it changes nothing, least of all what was published.
_STAGE = """
INSERT INTO order_outbox_events (event_id, event_type, occurred_at, aggregate_id, topic, record_key, payload, headers, due_at, producer)
SELECT u.event_id, u.event_type, u.occurred_at, u.aggregate_id, u.topic, u.record_key, u.payload, u.headers,
       GREATEST(u.due_at, clock_timestamp()), :producer
FROM unnest(:event_ids::text[], :event_types::text[], :occurred_at::timestamptz[], :aggregate_ids::text[], :topics::text[],
            :record_keys::bytea[], :payloads::bytea[], :headers::jsonb[], :due_at::timestamptz[])
     WITH ORDINALITY AS u(event_id, event_type, occurred_at, aggregate_id, topic, record_key, payload, headers, due_at, n)
ORDER BY u.n
ON CONFLICT (event_id) DO NOTHING
"""


def stage(tx: Transaction, staged: Sequence[events.Event], *, producer: str, settings: Settings) -> None:
    """Stage `staged` to be published, none before its `occurred_at`. One that was staged before, by its id, is left as it is."""
    if not staged:
        return
    tx.run(
        _STAGE,
        event_ids=[event.event_id for event in staged],
        event_types=[event.event_type for event in staged],
        occurred_at=[event.occurred_at for event in staged],
        aggregate_ids=[event.order_id for event in staged],
        topics=[settings.topic(event.event_type) for event in staged],
        record_keys=[event.order_id.encode() for event in staged],
        payloads=[event.value() for event in staged],
        headers=[msgspec.json.encode(event.headers()).decode() for event in staged],
        due_at=[event.occurred_at for event in staged],
        producer=producer,
    )


def stage_record(
    tx: Transaction,
    *,
    event_id: str,
    event_type: str,
    occurred_at: datetime,
    aggregate_id: str,
    topic: str,
    record_key: bytes | None,
    payload: bytes,
    headers: dict[str, str],
    producer: str,
) -> None:
    """Stage one record that is no event of ours (a dead letter), due at once. A repeated `event_id` changes nothing."""
    tx.run(
        _STAGE,
        event_ids=[event_id],
        event_types=[event_type],
        occurred_at=[occurred_at],
        aggregate_ids=[aggregate_id],
        topics=[topic],
        record_keys=[record_key],
        payloads=[payload],
        headers=[headers],
        due_at=[occurred_at],
        producer=producer,
    )


class Hint:
    """Tells the relay that rows are there, at most once in HINT_INTERVAL_S. It may fail: the relay sweeps in any case."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def send(self) -> None:
        """Notify soon, from the running event loop. Returns at once."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        while self._again:
            self._again = False
            with contextlib.suppress(errors.OrderflowError):
                await self._database.run(lambda tx: tx.run(f"NOTIFY {CHANNEL}"))
            await asyncio.sleep(HINT_INTERVAL_S)
