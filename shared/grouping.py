"""Work that arrives together shares a transaction (group commit), and when it fails no event, and no order, pays for another's fault.

While one transaction commits the next group fills, and what stands at the door when a group is about to go comes with it: fewer, larger
transactions. Nothing waits for a timer, and an idle event waits for nothing.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from shared import errors
from shared.config import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
Outcome = Literal["done", "duplicate", "parked"] | errors.OrderflowError
# One transaction over some events, in a thread; `lock_timeout_ms` None is the connection's own.
Commit = Callable[[Sequence[T], int | None], list[R]]

CONFLICTS_MAX = 6  # how often a part that met another transaction is repeated
LOCK_TIMEOUT_SPLIT_MS = 20  # in the parts of a group that waited too long: its neighbours have waited enough


def settle(part: Sequence[T], commit: Commit[T, R], *, until: float, lock_timeout_ms: int | None = None) -> list[R | errors.OrderflowError]:
    """Commit `part`, events with ids of their own, in as few transactions as can be; an outcome for each, in their order.

    An error that one event can cause (a value, a constraint, a bug, a lock held by somebody) splits the part by halves. Two transactions
    in each other's way: the part is repeated. A lost connection or a timeout splits nothing. Nothing is begun after `until` (monotonic).
    """
    failure: errors.OrderflowError = errors.Unavailable("there was no time left to begin", code="deadline")
    for attempt in range(CONFLICTS_MAX):
        if time.monotonic() >= until:
            break
        try:
            return [*commit(part, lock_timeout_ms)]
        except errors.Conflict as exc:
            failure = exc
            time.sleep(random.uniform(0, 0.005 * 2**attempt))  # noqa: S311  jitter, no secret
        except errors.Unavailable as exc:
            return [exc] * len(part)
        except errors.OrderflowError as exc:
            if len(part) == 1:
                return [exc]
            shorter = LOCK_TIMEOUT_SPLIT_MS if isinstance(exc, errors.Busy) else lock_timeout_ms
            middle = len(part) // 2
            return [
                outcome for half in (part[:middle], part[middle:]) for outcome in settle(half, commit, until=until, lock_timeout_ms=shorter)
            ]
    return [failure] * len(part)


@dataclass(slots=True)
class _Waiting(Generic[T, R]):
    """What one request handed in, and where its answer goes. A batch keeps its transaction to itself."""

    events: Sequence[T]
    until: float
    answer: asyncio.Future[list[R | errors.OrderflowError]]
    alone: bool = field(default=False)


class Grouping(Generic[T, R]):
    """Gathers what waits into groups and settles each in a thread, as many at once as there are connections."""

    def __init__(self, settled: Callable[[Sequence[T], float], Awaitable[list[R]]], settings: Settings) -> None:
        self._settled = settled
        self._events_max = settings.group_events_max
        self._queue_events_max = settings.queue_events_max
        self._deadline_s = settings.delivery_deadline
        self._lanes_max = settings.postgres_connections
        self._lanes: set[asyncio.Task[None]] = set()
        self._lanes_running = 0
        self._queue: deque[_Waiting[T, R]] = deque()
        self._queued_events = 0

    def demand_room(self) -> None:
        """Raise Overloaded when too many events wait already. Else any number is taken, or a batch larger than the queue would never be."""
        if self._queued_events >= self._queue_events_max:
            raise errors.Overloaded(f"{self._queue_events_max} events wait here already")

    async def submit(self, handed_in: Sequence[T], *, alone: bool) -> list[R | errors.OrderflowError]:
        """The outcome of each event, after the commit. Raises Overloaded when too many wait already."""
        self.demand_room()
        waiting: _Waiting[T, R] = _Waiting(
            handed_in, time.monotonic() + self._deadline_s, asyncio.get_running_loop().create_future(), alone
        )
        self._queue.append(waiting)
        self._queued_events += len(handed_in)
        if self._lanes_running < self._lanes_max:
            # Counted here and where a lane finds nothing more, not when its task is done: what is handed in between would wait for ever.
            self._lanes_running += 1
            lane = asyncio.create_task(self._lane())
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        return await waiting.answer

    async def _lane(self) -> None:
        try:
            while self._queue:
                await self._gathered()
                if self._queue:  # another lane may have taken it
                    await self._settle_next()
        finally:
            self._lanes_running -= 1

    async def _gathered(self) -> None:
        """Let in what stands at the door, as long as each turn of the event loop brings more."""
        seen = 0
        while seen < self._queued_events < self._events_max and not self._queue[0].alone:
            seen = self._queued_events
            await asyncio.sleep(0)

    async def _settle_next(self) -> None:
        group = self._next_group()
        wanted = [event for waiting in group for event in waiting.events]
        try:
            outcomes: Sequence[R | errors.OrderflowError] = await self._settled(wanted, min(waiting.until for waiting in group))
        except Exception as exc:  # whatever it is, every request gets its answer
            log.exception("a group of events could not be settled")
            outcomes = [errors.Bug(f"{type(exc).__name__} while the group was settled")] * len(wanted)
        rest = iter(outcomes)
        for waiting in group:
            own = [next(rest) for _ in waiting.events]
            with contextlib.suppress(asyncio.InvalidStateError):  # its request may have gone
                waiting.answer.set_result(own)

    def _next_group(self) -> list[_Waiting[T, R]]:
        group: list[_Waiting[T, R]] = []
        size = 0
        while self._queue:
            waiting = self._queue[0]
            if group and (waiting.alone or group[0].alone or size + len(waiting.events) > self._events_max):
                break
            group.append(self._queue.popleft())
            size += len(waiting.events)
        self._queued_events -= size
        return group
