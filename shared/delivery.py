"""The pipe every event goes through: request → claim → handler → outbox → commit → answer.

    @on(events.OrderAssembled, inbox="order_inbox_events")
    def handle(assembled, tx): ...

Order is fixed here, so that no function can answer before the commit, publish outside it, or forget the claim.
"""

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from starlette.requests import Request
from starlette.responses import Response

from shared import (
    answer,
    cloudevent,
    config,
    database,
    errors,
    events,
    failures,
    grouping,
    lease,
    outbox,
    retention,
    server,
    telemetry,
)
from shared.address import Address
from shared.config import Settings
from shared.database import Transaction
from shared.grouping import Outcome
from shared.inbox import Inbox, judged
from shared.parking import Parking
from shared.removal import Removal

log = logging.getLogger(__name__)

# Gets the claimed events of one transaction, never a duplicate, and returns the events to publish. It may run more than once for an
# event but commits once, so it must have no effect outside its transaction.
Handler = Callable[[Any, Transaction], Sequence[events.Event]]
# Has its effect outside the database, for one event; returns nothing and raises errors of shared.errors.
EffectHandler = Callable[[Any], Awaitable[None]]


class Function(Protocol):
    """What functions-framework runs; `handler` is the plain handler, for unit tests."""

    handler: Callable[..., Any]

    async def __call__(self, request: Request) -> Response:
        """Answer one delivery."""


def on(*kinds: type[events.Event], inbox: str) -> Callable[[Handler], Function]:
    """Make a handler of the events `kinds` a function, with `inbox` its table of handled events."""
    return lambda handler: _function(handler, kinds, inbox, functools.partial(_Transactions, handler, inbox))


def on_each(*kinds: type[events.Event], inbox: str) -> Callable[[EffectHandler], Function]:
    """Make a handler with an effect outside the database a function: one event at a time, under a lease in its `inbox`."""
    return lambda handler: _function(handler, kinds, inbox, functools.partial(_Effects, handler, inbox))


class _Settling(Protocol):
    """How events become outcomes; made in the event loop, at the first request."""

    database: database.Database

    async def settle(self, wanted: Sequence[events.Event], *, batch: bool) -> list[Outcome]:
        """The outcome of each event, in their order. Raises Overloaded when none can be taken."""

    def demand_room(self) -> None:
        """Raise Overloaded when no event can be taken."""


def _function(
    handler: Callable[..., Any], kinds: Sequence[type[events.Event]], inbox: str, made: Callable[[str, Settings], _Settling]
) -> Function:
    name = Path(handler.__code__.co_filename).parent.name
    known = {kind.TYPE: kind for kind in kinds}

    @functools.cache
    def settling() -> _Settling:
        return made(name, config.settings())

    async def ready() -> None:
        await settling().database.ping()

    async def end() -> None:
        if settling.cache_info().currsize:
            await asyncio.to_thread(settling().database.close)

    def check(settings: Settings) -> None:
        retention.check(settings)
        Address.parse(settings.postgres_dsn(inbox.removesuffix("_inbox_events")), settings)

    @server.function(name, ready=ready, check=check, end=end)
    @functools.wraps(handler)
    async def deliver(request: Request) -> Response:
        started = time.perf_counter()
        if request.method != "POST":
            raise errors.MethodNotAllowed
        settings = config.settings()
        # A dict, because each look-up in Starlette's own headers is a search. Of a header that is repeated, the last counts.
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers.raw}
        if headers.get("content-encoding", "identity") != "identity":
            raise errors.UnsupportedMediaType("content-encoding: a body must not be compressed", code="unsupported_content_encoding")
        batch = cloudevent.is_batch(headers)
        settling().demand_room()  # before it is read: telling many to come again must cost little
        body = await server.read_body(request, settings.batch_bytes_max if batch else settings.event_bytes_max)
        read = cloudevent.read_batch(body, settings.batch_events_max) if batch else [cloudevent.read_one(headers, body)]
        wanted = [_event(delivery, known) for delivery in read]
        outcomes = await _settled(wanted, settling(), batch=batch)
        answer.report(name, wanted, outcomes, time.perf_counter() - started)
        return answer.batch(outcomes) if batch else answer.single(outcomes[0])

    function = cast("Function", deliver)
    function.handler = handler
    return function


async def _settled(wanted: Sequence[events.Event | errors.Refused], settling: _Settling, *, batch: bool) -> list[Outcome]:
    """Outcomes in the order of `wanted`: a refusal stands for itself, the rest is settled."""
    valid = [event for event in wanted if isinstance(event, events.Event)]
    outcomes = iter(await settling.settle(valid, batch=batch) if valid else ())
    return [next(outcomes) if isinstance(event, events.Event) else event for event in wanted]


def _event(delivery: cloudevent.Read, known: dict[str, type[events.Event]]) -> events.Event | errors.Refused:
    if isinstance(delivery, errors.Refused):
        return delivery
    try:
        event = events.read(delivery.payload, known)
    except errors.Refused as refusal:
        return refusal
    if delivery.type != event.event_type and not delivery.plain:
        return errors.Refused(f"type: {delivery.type[:128]!r} differs from the payload's event_type {event.event_type!r}")
    if not delivery.names(event.event_id):
        return errors.Refused(f"id: {delivery.id[:128]!r} differs from the payload's event_id {event.event_id!r}")
    return event.out_of(delivery)


class _Transactions:
    """Events whose whole effect is one transaction with their claim."""

    def __init__(self, handler: Handler, inbox: str, name: str, settings: Settings) -> None:
        self._handler, self._name, self._settings = handler, name, settings
        self.database = database.connect(inbox.removesuffix("_inbox_events"), settings, name)
        self._parking = Parking.of(name, inbox, settings)
        Removal.of_inbox(inbox, settings, name).start()
        self._inbox = Inbox(inbox)
        self._hint, self._staged = outbox.Hint(self.database), threading.Event()
        self._grouping = grouping.Grouping(self._settle_group, settings)

    async def settle(self, wanted: Sequence[events.Event], *, batch: bool) -> list[Outcome]:
        return await self._grouping.submit(wanted, alone=batch)

    def demand_room(self) -> None:
        self._grouping.demand_room()

    async def _settle_group(self, wanted: Sequence[events.Event], until: float) -> list[Outcome]:
        """Settle events among which an id may repeat: the first of each goes ahead, and the rest is judged by it."""
        ids = [event.event_id for event in wanted]  # now: whatever a handler does to an event, its outcome is found
        first: dict[str, events.Event] = {}
        for event_id, event in zip(ids, wanted, strict=True):
            first.setdefault(event_id, event)
        telemetry.transaction_events(self._name).observe(len(first))
        settled = await self.database.work(lambda: grouping.settle(list(first.values()), self._commit, until=until))
        if self._staged.is_set():
            self._staged.clear()
            self._hint.send()
        outcome_of = dict(zip(first, settled, strict=True))
        return [
            outcome_of[event_id] if event is first[event_id] else _repeated(event, first[event_id], outcome_of[event_id])
            for event_id, event in zip(ids, wanted, strict=True)
        ]

    def _commit(self, part: Sequence[events.Event], lock_timeout_ms: int | None) -> list[Outcome]:
        """The whole of it for a part of a group: claim, handler, outbox, commit. Raises what splits, repeats or ends the part."""
        staged: Sequence[events.Event] = ()

        def work(tx: Transaction) -> list[Outcome]:
            nonlocal staged
            parked = self._parking.aside(tx, part) if self._parking else {}
            wanted = [event for event in part if event.event_id not in parked] if parked else part
            claims = self._inbox.claim(tx, wanted) if wanted else []
            settled: dict[str, Outcome] = {
                e.event_id: "done" if claim == "claimed" else claim for e, claim in zip(wanted, claims, strict=True)
            }
            outcomes = [parked.get(event.event_id) or settled[event.event_id] for event in part]
            ours = [event for event, claim in zip(wanted, claims, strict=True) if claim == "claimed"]
            staged = _handled(self._handler, ours, tx) if ours else ()
            outbox.stage(tx, staged, producer=self._name, settings=self._settings)
            return outcomes

        outcomes = self.database.transact(work, lock_timeout_ms=lock_timeout_ms)
        if staged:
            self._staged.set()
        return outcomes


class _Effects:
    """Events whose effect lies outside the database: each on its own, under a lease."""

    def __init__(self, handler: EffectHandler, inbox: str, name: str, settings: Settings) -> None:
        self._handler, self._name = handler, name
        self.database = database.connect(inbox.removesuffix("_inbox_events"), settings, name)
        self._leases = lease.LeasedInbox(self.database, inbox, settings.notification_lease, Parking.of(name, inbox, settings, leased=True))
        self._begin_within_s = settings.delivery_deadline
        Removal.of_inbox(inbox, settings, name, leased=True).start()

    async def settle(self, wanted: Sequence[events.Event], *, batch: bool) -> list[Outcome]:
        del batch
        until = time.monotonic() + self._begin_within_s
        return [await self._one(event, until) for event in wanted]

    def demand_room(self) -> None:
        """Always: what waits here is a request each, and connections have their limit."""

    async def _one(self, event: events.Event, until: float) -> Outcome:
        if time.monotonic() >= until:
            return errors.Unavailable("there was no time left to begin", code="deadline")
        try:
            held = await self._leases.take(event)
            if not isinstance(held, lease.Lease):
                return held
            return await self._under(held, event)
        except errors.OrderflowError as exc:
            return exc

    async def _under(self, held: lease.Lease, event: events.Event) -> Outcome:
        facts = {"function": self._name, "event_id": event.event_id, "order_id": event.order_id}
        if held.attempt > 1:
            log.info("tried again: no outcome of an earlier try was recorded", extra=facts | {"attempt": held.attempt})
        try:
            await self._handler(event)
        except Exception as exc:
            try:
                await self._leases.give_back(event, held)
            except errors.OrderflowError:
                log.warning("the lease could not be given back; it ends by itself", extra=facts)
            raise failures.of(exc, event.personal()) from exc
        if not await self._leases.mark(event, held):
            log.warning("the effect outlived its lease, so another delivery may repeat it", extra=facts)
            return errors.Busy("its lease ended before its effect did", code="leased")
        return "done"


def _handled(handler: Handler, ours: Sequence[events.Event], tx: Transaction) -> Sequence[events.Event]:
    try:
        made = handler(ours, tx)
    except Exception as exc:
        raise failures.of(exc, {text for event in ours for text in event.personal()}) from exc
    if not isinstance(made, Sequence) or not all(isinstance(event, events.Event) for event in made):
        raise errors.Bug(f"the handler returned {type(made).__name__}, not a list of events", code="not_events")
    return made


def _repeated(event: events.Event, leader: events.Event, outcome: Outcome) -> Outcome:
    """The outcome of an event whose id came earlier in the same group, with `leader`."""
    verdict = judged(event, (leader.event_type, leader.order_id))
    if outcome in {"done", "duplicate"}:
        return "duplicate" if verdict == "duplicate" else cast("errors.Refused", verdict)
    # The first was not claimed, so nothing is known against this one: the same event shares its fate, another one comes again.
    return outcome if verdict == "duplicate" else errors.Busy("another event with its id is being handled", code="event_id_reused")
