"""The desk where orders are placed: a validated order becomes rows, an event and an answer."""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from functions.orders import faults, idempotency, models, store
from shared import errors, events, grouping, ids, outbox
from shared.config import Settings
from shared.database import Database

log = logging.getLogger(__name__)

PAYMENT_METHOD = "card"
STEP_S = 0.1  # how long a transaction waits for a lock
SWEEP_INTERVAL_S = 60.0
SWEEP_PAUSE_S = 0.1  # between two steps others have their turn


class Desk:
    """Places orders, those that arrive together in one transaction, and now and then clears away the keys that expired."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._hint = outbox.Hint(database)
        self._turns = idempotency.Turns()
        self._grouping = grouping.Grouping(self._settle, settings)
        self._patience = asyncio.Semaphore(1)
        self._sweep_not_before = 0.0
        self._sweeping: asyncio.Task[None] | None = None

    async def place(self, new: models.NewOrder, *, key: str | None, traceparent: str | None) -> tuple[idempotency.Answer, bool]:
        """Store the order, or find what its key was answered before; says which. Raises errors.

        After Unavailable the order may be there all the same (a commit whose answer was lost): only a key makes it safe to try again.
        """
        placement = self._placement(new, key, traceparent)
        until = time.monotonic() + idempotency.WAIT_S
        if placement.claim is None:
            answer = await self._stored(placement, until)
        else:
            async with self._turns.turn(placement.claim, until):
                answer = await self._stored(placement, until)
        replayed = answer.order_id != placement.order.id
        if not replayed:
            self._hint.send()
        self._sweep_soon()
        return answer, replayed

    async def _stored(self, placement: store.Placement, until: float) -> idempotency.Answer:
        """Together with others first. What meets a lock then waits for it apart, in short steps and one at a time: it holds up nobody."""
        (outcome,) = await self._grouping.submit([placement], alone=False)
        while isinstance(outcome, errors.Busy):
            left_s = until - time.monotonic()
            if left_s <= 0 or not await _acquired(self._patience, left_s):
                raise idempotency.still_working() if placement.claim else errors.Unavailable(outcome.detail, code=outcome.code)
            try:
                (outcome,) = await self._settle([placement], time.monotonic() + STEP_S)
            finally:
                self._patience.release()
        if isinstance(outcome, errors.OrderflowError):
            raise outcome
        return outcome

    async def _settle(self, placements: Sequence[store.Placement], until: float) -> list[idempotency.Answer | errors.OrderflowError]:
        lock_timeout_ms = int(STEP_S * 1000)
        return await self._database.work(lambda: grouping.settle(placements, self._commit, until=until, lock_timeout_ms=lock_timeout_ms))

    def _commit(self, placements: Sequence[store.Placement], lock_timeout_ms: int | None) -> list[store.Outcome]:
        return self._database.transact(lambda tx: store.place(tx, placements, self._settings), lock_timeout_ms=lock_timeout_ms)

    def _placement(self, new: models.NewOrder, key: str | None, traceparent: str | None) -> store.Placement:
        units = new.merged()
        amount = sum(units.values()) * self._settings.order_item_price_kopecks
        if amount > events.AMOUNT_KOPECKS_MAX:
            limit = events.AMOUNT_KOPECKS_MAX
            raise faults.InvalidRequest([faults.fault("items", "amount_max", f"the order costs {amount} kopecks, more than {limit}")])
        order = models.Order(
            id=ids.new(),
            user_id=new.user_id,
            status="paid",
            items=[models.OrderedItem(product_id=product, quantity=quantity) for product, quantity in units.items()],
        )
        paid = events.OrderPaid(
            event_id=ids.new(),
            occurred_at=datetime.now(UTC),
            order_id=order.id,
            user_id=order.user_id,
            amount=amount,
            payment_method=PAYMENT_METHOD,
        ).within(events.Context(traceparent=traceparent))
        response = order.model_dump_json().encode()
        claim = idempotency.Claim(order.user_id, key, new.canonical_sha256(), order.id, response) if key is not None else None
        return store.Placement(order, paid, response, claim)

    def _sweep_soon(self) -> None:
        if time.monotonic() >= self._sweep_not_before and (self._sweeping is None or self._sweeping.done()):
            self._sweep_not_before = time.monotonic() + SWEEP_INTERVAL_S
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        try:
            full = True
            while full:
                full = await self._database.run(idempotency.sweep) == idempotency.SWEEP_ROWS_MAX
                await asyncio.sleep(SWEEP_PAUSE_S)
        except errors.OrderflowError as exc:
            log.warning("expired idempotency keys were not removed; the next sweep tries again", extra={"reason": exc.detail})


async def _acquired(gate: asyncio.Lock | asyncio.Semaphore, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return await gate.acquire()
    except TimeoutError:
        return False
