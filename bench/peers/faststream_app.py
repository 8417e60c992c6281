"""FastStream on confluent-kafka, asyncpg and pydantic: `python -m bench.peers.faststream_app one|batch`.

As its documentation shows a consumer: a model for the message, a pool made at startup, AckPolicy.NACK_ON_ERROR so that an offset is
committed only after the handler. The work is ours: inbox row and order in one transaction, one message or a batch of 500 at a time.
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


def build(mode: str) -> FastStream:
    """The application."""
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
                claimed = await connection.fetchval(
                    "INSERT INTO order_inbox_events (event_id, event_type, occurred_at, order_id) VALUES ($1, $2, $3, $4)"
                    " ON CONFLICT (event_id) DO NOTHING RETURNING event_id",
                    event.event_id, event.event_type, event.occurred_at, event.order_id,
                )  # fmt: skip
                if claimed is not None:
                    await connection.execute("UPDATE orders SET status = 'assembled' WHERE id = $1 AND status = 'paid'", event.order_id)

        return app

    @broker.subscriber(  # type: ignore[untyped-decorator,unused-ignore]
        topic, group_id=group, auto_offset_reset="earliest", batch=True, max_records=BATCH, ack_policy=AckPolicy.NACK_ON_ERROR
    )
    async def handle_batch(events: list[OrderAssembled]) -> None:
        first = {event.event_id: event for event in events}
        ordered = sorted(first.values(), key=lambda event: event.event_id)
        async with pools[0].acquire() as connection, connection.transaction():
            await connection.execute(
                APPLY,
                [event.event_id for event in ordered],
                [event.event_type for event in ordered],
                [event.occurred_at for event in ordered],
                [event.order_id for event in ordered],
            )

    return app


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(build(sys.argv[1]).run(log_level=30))
