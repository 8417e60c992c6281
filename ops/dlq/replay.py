"""A run carried out: its items in lanes, a bounded number in flight, each written down before it is sent and after its result.

Items of one lane (a consumer's events of one order) go one after another in their order, different lanes side by side. Items are read
page by page and their contents only when they are sent, so a run of any length takes the same memory.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from connectors.kafka_source.answers import PARKED
from ops.dlq import originals, runs
from ops.dlq.behind import Behind
from ops.dlq.force import Inbox
from ops.dlq.ledger import Item, Ledger, Result
from ops.dlq.originals import Original
from ops.dlq.sender import Sender, Stop
from shared import errors
from shared.database import Database, Transaction

IN_FLIGHT = 8
ITEMS_MAX = 1000  # known and not yet sent
_PAGE = 250

Lane = tuple[str, str]


class View(Protocol):
    """Who is told how it goes."""

    def result(self, item: Item, result: Result) -> None:
        """An item has its result."""


@dataclass(frozen=True)
class Plan:
    """How a run is carried out. `unpack` makes a record of what an item holds; raises ValueError where it cannot."""

    senders: Mapping[str, Sender]
    unpack: Callable[[bytes], Original]
    rate_per_s: float | None = None
    inboxes: Mapping[str, Inbox] | None = None  # by consumer; only with --force
    forced_before: Mapping[str, str] | None = None
    in_flight: int = IN_FLIGHT
    behind: Behind | None = None  # only where letters go to functions


class Replay:
    """One run in this process. `stop` ends it early, in good order."""

    def __init__(self, database: Database, run: runs.Run, plan: Plan, stop: Stop, view: View) -> None:
        self._database, self._run, self._plan, self._stop, self._view = database, run, plan, stop, view
        self._ledger = Ledger(database, run, runs.who())
        self._lanes: dict[Lane, deque[Item]] = {}
        self._ready: asyncio.Queue[Lane | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(ITEMS_MAX)
        self._fed, self._outstanding = False, 0
        self._next_at = 0.0
        self._held: datetime = run.heartbeat_at

    async def carry_out(self) -> bool:
        """Send until nothing is left or it is stopped. Whether the run is finished. Raises Ended, Unavailable."""
        beating = asyncio.create_task(self._beat())
        beating.add_done_callback(lambda _: self._stop.set())
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self._feed, *[self._work] * self._plan.in_flight):
                    group.create_task(work())
            if self._plan.behind is not None and not self._stop:
                await self._plan.behind.left_over(self._turn)
        except BaseExceptionGroup as failures:
            raise _first(failures) from failures
        finally:
            beating.cancel()
            (lost,) = await asyncio.gather(beating, return_exceptions=True)
        if isinstance(lost, errors.OrderflowError):
            raise lost
        return await self._database.run(self._ended)

    def _ended(self, tx: Transaction) -> bool:
        if runs.finish(tx, self._run):
            return True
        runs.release(tx, self._run, self._held)
        return False

    # --- what is next --------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        after = -1
        while not self._stop and (page := await self._ledger.page(after, _PAGE)):
            after = page[-1].n
            for item in page:
                await self._room.acquire()
                if self._stop:
                    break
                self._add(item)
        self._fed = True
        self._close_when_empty()

    def _add(self, item: Item) -> None:
        self._outstanding += 1
        lane = (item.consumer, item.lane) if item.lane is not None else ("", str(item.n))
        waiting = self._lanes.get(lane)
        if waiting is None:
            self._lanes[lane] = deque([item])
            self._ready.put_nowait(lane)
        else:
            waiting.append(item)

    async def _work(self) -> None:
        while (lane := await self._ready.get()) is not None:
            waiting = self._lanes[lane]
            if not self._stop:
                await self._in_order(waiting[0])
            waiting.popleft()
            self._room.release()
            self._outstanding -= 1
            if waiting:
                self._ready.put_nowait(lane)
            else:
                del self._lanes[lane]
            self._close_when_empty()

    def _close_when_empty(self) -> None:
        if self._fed and not self._outstanding:
            for _ in range(self._plan.in_flight):
                self._ready.put_nowait(None)

    # --- one item ------------------------------------------------------------------------------------------------------

    async def _in_order(self, item: Item) -> None:
        """Send it, and around it what is parked behind its order's letters, where there may be such."""
        behind = self._plan.behind
        key = None if behind is None or item.lane is None else behind.key(item.consumer, item.lane)
        if behind is None or key is None:
            await self._one(item)
        elif await behind.hold(key):
            try:
                await behind.drain(key, self._turn)
                await self._one(item)
                await behind.drain(key, self._turn)
            finally:
                await behind.release(key)

    async def _one(self, item: Item) -> None:
        sender = self._plan.senders[item.consumer]
        if not await self._turn():
            return
        held = await self._ledger.sent(item, sender.where)
        if isinstance(held, Result):
            self._view.result(item, held)
            return
        try:
            original = self._plan.unpack(held)
        except (ValueError, KeyError, TypeError) as exc:
            result: Result | None = Result("failed_again", "unreadable_letter", f"its record cannot be read: {exc}", 0)
        else:
            removed = await self._forget(item)
            result = await sender.send(original)
            if result is not None and removed:
                result = replace(result, detail=f"{removed}; {result.detail}".removesuffix("; "))
        if result is not None and result.code == PARKED.outcome and item.letter_id is not None:
            result = replace(
                result, status="failed_again", detail="the function took it for a later event of its order, not for this run's"
            )
        if result is None:  # stopped before there was an answer: it is sent again when the run is resumed
            return
        await self._ledger.result(item, result, sender.where)
        self._view.result(item, result)

    async def _forget(self, item: Item) -> str:
        """Remove the event's inbox row with --force. What was removed; nothing where there is none that is older than the run."""
        if self._plan.inboxes is None or self._plan.forced_before is None or item.event_id is None:
            return ""
        inbox, before = self._plan.inboxes[item.consumer], self._plan.forced_before[item.consumer]
        if not await inbox.holds(item.event_id, before):
            return ""
        told = f"removed {item.event_id} from {inbox.table}"
        await self._ledger.forced(item, told)
        await inbox.forget(item.event_id, before)
        return told

    async def _turn(self) -> bool:
        """Wait until the rate allows another. False when told to stop."""
        if self._plan.rate_per_s is None:
            return True
        now = time.monotonic()
        at = max(now, self._next_at)
        self._next_at = at + 1 / self._plan.rate_per_s
        return await self._stop.sleep(at - now)

    # --- the run is this process's -------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Say every few seconds that this process lives. Ends by raising Ended when the run is no longer its own."""
        while True:
            await asyncio.sleep(runs.HEARTBEAT_S)
            try:
                self._held = await self._database.run(lambda tx: runs.beat(tx, self._run, self._held))
            except errors.Retryable:
                continue


def of_letter(value: bytes) -> Original:
    """The record in a letter's JSON, as it stands in the index. Raises ValueError, KeyError, TypeError."""
    return originals.of_letter(json.loads(value))


def of_event(packed: bytes) -> Original:
    """The record in an item of a run of events."""
    return Original.unpack(packed)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
