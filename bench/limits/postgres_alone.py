"""`python -m bench.limits.postgres_alone COUNT WARM_UP random|timed`: the same statement on two connections at once.

Its parameters are made before. The last argument says how the ids are made.
"""

import asyncio
import json
import os
import sys
import time
from collections import deque

import asyncpg
import uvloop

from bench.dataset import OCCURRED_AT, Dataset
from bench.statement import APPLY

BATCH, CONNECTIONS = 500, 2
TYPE = "order.assembly.completed"

Parameters = tuple[list[str], list[str], list[object], list[str]]


async def main(count: int, warm_up: int, *, timed: bool) -> dict[str, float]:
    """When it began and ended, in seconds since 1970."""
    ids = list(Dataset(count + warm_up, timed=timed).ids())
    connections = [await asyncpg.connect(os.environ["DSN"]) for _ in range(CONNECTIONS)]
    started_at = ended_at = 0.0
    for part in (ids[:warm_up], ids[warm_up:]):
        # In the order in which they would arrive, not in that of the index: only each batch is sorted.
        waiting = deque(_parameters(sorted(part[at : at + BATCH])) for at in range(0, len(part), BATCH))
        started_at = time.time()
        await asyncio.gather(*(_work(connection, waiting) for connection in connections))
        ended_at = time.time()
    for connection in connections:
        await connection.close()
    return {"started_at": started_at, "ended_at": ended_at}


async def _work(connection: asyncpg.Connection, waiting: deque[Parameters]) -> None:
    apply = await connection.prepare(APPLY)
    while waiting:
        await apply.fetch(*waiting.popleft())


def _parameters(batch: list[tuple[str, str]]) -> Parameters:
    size = len(batch)
    return [event_id for event_id, _ in batch], [TYPE] * size, [OCCURRED_AT] * size, [order_id for _, order_id in batch]


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), timed=sys.argv[3] == "timed"))))  # noqa: T201  its result
