"""`python -m bench.limits.hand_loop`: consume 500, one transaction, commit the offsets; no framework, no HTTP, nothing that can fail well.

What an expert would write for this one job: confluent-kafka, msgspec, asyncpg with a prepared statement. It reads the same CloudEvents
headers and values as we do, demands of them what the database needs, and would lose its head over the first bad record.
"""

import contextlib
import os
import signal
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import uvloop
from confluent_kafka import Consumer

from bench.statement import APPLY

BATCH = 500


class _Payload(msgspec.Struct):
    event_id: str
    event_type: str
    occurred_at: datetime
    order_id: str


class _Ended(Exception):
    """It was asked to end."""


def _end(*_: object) -> None:
    raise _Ended


async def main() -> None:
    """Run until SIGTERM."""
    connection = await asyncpg.connect(os.environ["DSN"])
    apply = await connection.prepare(APPLY)
    decode = msgspec.json.Decoder(_Payload).decode
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["KAFKA_BROKERS"],
            "group.id": os.environ["GROUP"],
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 3,
        }
    )
    consumer.subscribe([os.environ["TOPIC"]])
    while True:
        first = consumer.poll(0.25)
        if first is None:
            continue
        messages = [first, *consumer.consume(BATCH - 1, 0)]  # what is there already: an idle event waits for no other
        found: dict[str, _Payload] = {}
        for message in messages:
            if message.error() is not None:
                raise SystemExit(str(message.error()))
            headers: dict[str, Any] = dict(message.headers() or ())
            payload = decode(message.value() or b"")
            if headers["ce_specversion"] != b"1.0" or headers["ce_id"].decode() != payload.event_id:
                raise SystemExit("a record that is not ours")
            found[payload.event_id] = payload
        ordered = sorted(found.values(), key=lambda payload: payload.event_id)
        await apply.fetch(
            [payload.event_id for payload in ordered],
            [payload.event_type for payload in ordered],
            [payload.occurred_at for payload in ordered],
            [payload.order_id for payload in ordered],
        )
        consumer.commit(asynchronous=False)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    with contextlib.suppress(_Ended):
        uvloop.run(main())
