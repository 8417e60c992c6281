"""FastStream on confluent-kafka, asyncpg and pydantic: `python -m bench.peers.faststream_app one|batch|set`.

As its documentation shows a consumer: a model for the message, a pool made at startup, AckPolicy.NACK_ON_ERROR so that an offset is
committed only after the handler. The work is ours: inbox row and order in one transaction, for one message or for a batch of 500. `batch`
does what most would write, a claim and an update for each event; `set` has the one statement of the hand-written loop.
asyncpg is the fastest driver there is, and prepares its statements by itself.
"""

import asyncio
import os
import sys
from datetime import datetime

import asyncpg
import uvloop
from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker
from pydantic import BaseModel

from bench.statement import APPLY

BATCH = 500


class OrderAssembled(BaseModel):
    """What the consumer needs of the message."""

    event_id: str
    event_type: str
    occurred_at: datetime
    order_id: str
    user_id: str


CLAIM = """
INSERT INTO order_inbox_events (event_id, event_type, occurred_at, order_id) VALUES ($1, $2, $3, $4)
ON CONFLICT (event_id) DO NOTHING RETURNING event_id
"""
ASSEMBLE = "UPDATE orders SET status = 'assembled' WHERE id = $1 AND status = 'paid'"


async def settle(connection: asyncpg.Connection, event: OrderAssembled) -> None:
    """Claim one event, and set its order to assembled."""
    if await connection.fetchval(CLAIM, event.event_id, event.event_type, event.occurred_at, event.order_id) is not None:
        await connection.execute(ASSEMBLE, event.order_id)


async def settle_together(connection: asyncpg.Connection, events: list[OrderAssembled]) -> None:
    """The same for a batch, in the one statement that the hand-written loop has."""
    first = {event.event_id: event for event in events}
    ordered = sorted(first.values(), key=lambda event: event.event_id)
    await connection.execute(
        APPLY,
        [event.event_id for event in ordered],
        [event.event_type for event in ordered],
        [event.occurred_at for event in ordered],
        [event.order_id for event in ordered],
    )


def build(mode: str) -> FastStream:
    """The application: `one` message, a `batch` event by event, or a batch as a `set`."""
    broker = KafkaBroker(os.environ["KAFKA_BROKERS"])
    app = FastStream(broker)
    topic, group = os.environ["TOPIC"], os.environ["GROUP"]
    pools: list[asyncpg.Pool] = []

    @app.on_startup  # type: ignore[untyped-decorator,unused-ignore]  # it is not where types are checked
    async def connect() -> None:
        pools.append(await asyncpg.create_pool(os.environ["DSN"], min_size=2, max_size=2))

    if mode == "one":

        @broker.subscriber(topic, group_id=group, auto_offset_reset="earliest", ack_policy=AckPolicy.NACK_ON_ERROR)  # type: ignore[untyped-decorator,unused-ignore]
        async def handle(event: OrderAssembled) -> None:
            async with pools[0].acquire() as connection, connection.transaction():
                await settle(connection, event)

        return app

    @broker.subscriber(  # type: ignore[untyped-decorator,unused-ignore]
        topic, group_id=group, auto_offset_reset="earliest", batch=True, max_records=BATCH, ack_policy=AckPolicy.NACK_ON_ERROR
    )
    async def handle_batch(events: list[OrderAssembled]) -> None:
        async with pools[0].acquire() as connection, connection.transaction():
            if mode == "set":
                await settle_together(connection, events)
                return
            for event in events:
                await settle(connection, event)

    return app


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(build(sys.argv[1]).run(log_level=30))
