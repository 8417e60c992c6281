"""Requests that got no answer, and the search for the record that is to blame.

After a request without an answer nothing is sent until GET /health answers 200. Then the try counts, and its records are suspects:
a group of them is sent alone, with nothing else in flight, and halved until the culprit is alone. A try that others shared counts
once for a record however often it happens, so that an innocent neighbour never runs out of retries.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from connectors.kafka_source import outage
from connectors.kafka_source.answers import Answer
from connectors.kafka_source.record import Record

log = logging.getLogger(__name__)


class Suspects:
    """The suspects of one source."""

    def __init__(
        self,
        name: str,
        healthy: Callable[[], Awaitable[bool]],
        unhealthy: Callable[[float], None],
        count: Callable[[list[Record], Answer], None],
    ) -> None:
        self.lost: list[tuple[list[Record], Answer]] = []
        self._name = name
        self._healthy = healthy
        self._unhealthy = unhealthy
        self._count = count
        self._groups: deque[list[Record]] = deque()
        self._checking: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._groups)

    @property
    def checking(self) -> bool:
        """Whether nothing may be sent because the function's health is not known."""
        return self._checking is not None

    def no_answer(self, group: list[Record], answer: Answer) -> None:
        """`group` was sent, and nothing usable came back."""
        self.lost.append((group, answer))
        log.warning("no answer to a request that was sent", extra={"source": self._name, "records": len(group), "reason": answer.detail})
        if self._checking is None:
            self._checking = asyncio.get_running_loop().create_task(self._check())

    def add(self, group: list[Record]) -> None:
        """`group` is to be sent alone."""
        self._groups.append(group)

    def halve(self, group: list[Record]) -> None:
        """Its halves are to be sent alone, next."""
        middle = len(group) // 2
        self._groups.extendleft([group[middle:], group[:middle]])

    def take(self, *, one: bool) -> list[Record]:
        """The next group without the records that are no longer ours; of it only `one`, if so wanted. Empty when there is none."""
        while self._groups:
            group = [record for record in self._groups.popleft() if not record.partition.closed]
            if one and len(group) > 1:
                self._groups.appendleft(group[1:])
                group = group[:1]
            if group:
                return group
        return []

    def stop(self) -> None:
        """Ask no more."""
        if self._checking is not None:
            self._checking.cancel()

    async def _check(self) -> None:
        n = 0
        while not await self._healthy():
            n += 1
            self._unhealthy(time.monotonic())
            await asyncio.sleep(outage.backoff_s(n, None))
        self._checking = None
        lost, self.lost = self.lost, []
        for group, answer in lost:
            self._count(group, answer)


def count_shared(group: Iterable[Record]) -> None:
    """A try that these records shared: it counts once for each, however often it happens."""
    for record in group:
        if not record.shared_failure:
            record.shared_failure = True
            record.failures += 1
