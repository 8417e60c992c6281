"""Open letters as the index has them, in /metrics: how many of each consumer and cause, and how old the oldest is.

They need no consumer on the dead-letter topics. Where the index cannot be read they are absent: a zero would say that all is well.
"""

import asyncio
import logging
import re
import time
from collections import defaultdict
from collections.abc import Collection

from prometheus_client import Gauge

from shared import errors
from shared.connection import Row
from shared.database import Database, Transaction

log = logging.getLogger(__name__)

CACHED_S = 5.0
OTHER, SERIES_MAX = "other", 100  # for codes that are none, and for the rarest, so that no letters can make series without end
_CODE = re.compile(r"[a-z0-9_.-]{1,64}")
_OPEN = """
SELECT consumer, error_code, count(*), EXTRACT(epoch FROM clock_timestamp() - min(failed_at))::float8,
       EXTRACT(epoch FROM clock_timestamp() - max(last_failed_at))::float8
FROM dlq_letters WHERE state = 'open' GROUP BY consumer, error_code
"""

letters = Gauge("orderflow_dlq_letters", "Open letters in the index, by consumer and error code.", ["consumer", "code"])
oldest = Gauge("orderflow_dlq_oldest_seconds", "How long ago the oldest open letter's event failed; 0 when none is open.", ["consumer"])
newest = Gauge("orderflow_dlq_newest_seconds", "How long ago an open letter's event failed last; absent when none is open.", ["consumer"])


class IndexMetrics:
    """Reads the index at most every CACHED_S seconds, however often /metrics is asked."""

    def __init__(self, database: Database, consumers: Collection[str]) -> None:
        self._database, self._consumers = database, consumers
        self._read_at = -CACHED_S
        self._reading = asyncio.Lock()
        self._readable = True

    async def measure(self) -> None:
        """Set the gauges, or take them away while the index cannot be read. Never raises for the database."""
        async with self._reading:
            if time.monotonic() - self._read_at < CACHED_S:
                return
            try:
                rows = await self._database.run(_open)
            except errors.OrderflowError as exc:
                rows = None
                if self._readable:
                    log.warning("the index of letters cannot be read: its metrics are absent", extra={"reason": exc.detail})
            self._readable = rows is not None
            self._read_at = time.monotonic()
            self._set(rows)

    async def close(self) -> None:
        """Let go of the connection."""
        await asyncio.to_thread(self._database.close)

    def _set(self, rows: list[Row] | None) -> None:
        for gauge in (letters, oldest, newest):
            gauge.clear()
        if rows is None:
            return
        counts: dict[tuple[str, str], int] = defaultdict(int)
        ages = dict.fromkeys(self._consumers, 0.0)
        last: dict[str, float] = {}
        for consumer, code, count, first_s, last_s in sorted(rows, key=lambda row: -row[2]):
            counts[consumer, code if _CODE.fullmatch(code) and len(counts) < SERIES_MAX else OTHER] += count
            ages[consumer] = max(ages.get(consumer, 0.0), first_s)
            last[consumer] = min(last.get(consumer, last_s), last_s)
        for (consumer, code), count in counts.items():
            letters.labels(consumer, code).set(count)
        for consumer, age in ages.items():
            oldest.labels(consumer).set(age)
        for consumer, age in last.items():
            newest.labels(consumer).set(age)


def _open(tx: Transaction) -> list[Row]:
    return tx.run(_OPEN)
