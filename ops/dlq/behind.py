"""What is parked behind the letters that a run sends: sent after them, in its order, before anything new of the order is let through.

A key is held, so that no other run sends of it at the same time; then come its letter, and the parked events that no open letter
precedes. A parked event that fails gets a letter of its own, behind which the rest goes on waiting. Nothing here says that a key is
blocked or free: the letters and parked events do. So whatever ends a run half-way, the next one goes on, also with keys whose last
letter was discarded.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from connectors.kafka_source.answers import PARKED
from functions.dlq_router import failed, letter
from ops.dlq.ledger import DATABASE_AWAY_MAX_S, Result
from ops.dlq.originals import Original
from ops.dlq.sender import Sender, Stop
from shared import errors, events, letters, letters_index, outbox, parked, topics
from shared.config import Settings
from shared.database import Database, Transaction
from shared.parked import Key, Waiting

T = TypeVar("T")
Turn = Callable[[], Awaitable[bool]]
_LOOK_S = 0.25
PRODUCER = "orderflow dlq"


class Behind:
    """The parked events of one run's consumers, sent to their functions. `sent` counts what became of them."""

    def __init__(self, settings: Settings, database: Database, senders: Mapping[str, Sender], stop: Stop) -> None:
        self.sent: Counter[str] = Counter()
        self._database, self._senders, self._stop = database, senders, stop
        catalogue = topics.catalogue(settings)
        named = {topic.name: topic for topic in catalogue.dead_letter_topics}
        self._topics = {consumer.group: (topic.name, named[consumer.dead_letter_topic]) for topic, consumer in catalogue.consumers()}
        parking = {consumer.group for _, consumer in catalogue.consumers() if settings.parks(consumer.role)}
        self._guarded = parking | database.transact(lambda tx: parked.waits(tx, list(senders)))
        self._session: Transaction | None = None
        self._sessions = contextlib.ExitStack()
        self._turn = asyncio.Lock()

    def key(self, consumer: str, lane: str) -> Key | None:
        """The key of these letters, where events may be parked behind them."""
        return Key(consumer, lane) if consumer in self._guarded else None

    async def hold(self, key: Key) -> bool:
        """Wait for the lock on `key`. False when told to stop."""
        while not self._stop:
            if await self._locked(key.hold):
                return True
            await self._stop.sleep(_LOOK_S)
        return False

    async def release(self, key: Key) -> None:
        """Let go of `key`."""
        with contextlib.suppress(errors.OrderflowError):  # its connection is gone, and the lock with it
            await self._locked(key.release)

    async def drain(self, key: Key, turn: Turn) -> None:
        """Send the parked events of `key`, one after another, until none is left or an open letter precedes the next."""
        while not self._stop and (waiting := await self._patiently(key.first)) is not None:
            if not await turn():
                return
            result = await self._senders[key.consumer].send(_original(waiting, self._topics[key.consumer][0]))
            if result is None:
                return
            if result.code == PARKED.outcome:  # it is not the first any more, or the run is not open: another one is at it
                return
            await self._patiently(lambda tx: self._taken_off(tx, key, waiting, result))  # noqa: B023  awaited here
            self.sent[result.status] += 1

    async def left_over(self, turn: Turn) -> None:
        """Send what is parked and what no letter holds up: whose letters were done or discarded without it."""
        for consumer in self._senders:
            for key in await self._patiently(lambda tx: parked.free_keys(tx, consumer)):  # noqa: B023  likewise
                if self._stop or not await self.hold(key):
                    return
                try:
                    await self.drain(key, turn)
                finally:
                    await self.release(key)

    def close(self) -> None:
        """Let go of every lock."""
        self._sessions.close()

    async def _locked(self, ask: Callable[[Transaction], T]) -> T:
        """`ask` on the one connection that holds the locks. They are gone with it; then who held a key goes on, and its inbox sees to it
        that nothing has a second effect."""
        async with self._turn:
            return await asyncio.to_thread(self._on_session, ask)

    def _on_session(self, ask: Callable[[Transaction], T]) -> T:
        if self._session is None or self._session.lost():
            self._sessions.close()
            self._session = self._sessions.enter_context(self._database.session())
        return ask(self._session)

    async def _patiently(self, work: Callable[[Transaction], T]) -> T:
        """`work` in a transaction; a database that is away is waited for."""
        until = asyncio.get_running_loop().time() + DATABASE_AWAY_MAX_S
        while True:
            try:
                return await self._database.run(work)
            except errors.Retryable:
                if self._stop or asyncio.get_running_loop().time() >= until:
                    raise
            await self._stop.sleep(_LOOK_S)

    def _taken_off(self, tx: Transaction, key: Key, waiting: Waiting, result: Result) -> None:
        key.replayed(tx, waiting.event_id)
        if result.status == "failed_again":
            self._lettered(tx, key.consumer, waiting, result)

    def _lettered(self, tx: Transaction, consumer: str, waiting: Waiting, result: Result) -> None:
        """A letter about it: in the index now, on its topic when the relay has published it."""
        topic, dead_letters = self._topics[consumer]
        original = _original(waiting, topic)
        record = failed.Failed(
            topic=original.topic, value=original.value, key=original.key, headers=original.headers, partition=original.partition,
            offset=original.offset, code=result.code, detail=result.detail, place=result.place, attempts=result.tries,
            reason=failed.REFUSED if result.tries == 1 else failed.OUT_OF_RETRIES,
            event_id=waiting.event_id if original.offset is None else None,
        )  # fmt: skip
        limit = int(dead_letters.config["max.message.bytes"])
        written = letter.write(record, consumer, now=datetime.now(UTC), bytes_max=limit)
        outbox.stage_record(
            tx, event_id=_staged_id(written), event_type="orderflow.dead_letter", occurred_at=written.failed_at,
            aggregate_id=waiting.order_id, topic=dead_letters.name, record_key=written.key, payload=written.value, headers=written.headers,
            producer=PRODUCER,
        )  # fmt: skip
        letters_index.index(tx, [letters.read(written.value, topic=dead_letters.name)])


def _staged_id(written: letter.Letter) -> str:
    """The same letter may be written once more, later: each time is a record of its own."""
    return f"{written.letter_id}/{json.loads(written.value)['failed_at']}"


def _original(waiting: Waiting, topic: str) -> Original:
    """The record that the event came from, as far as a function was told of it."""
    try:
        event = events.read(waiting.payload, events.known()).within(waiting.context)
        headers = event.headers()
    except errors.Refused:  # read once, by the function that parked it; perhaps another version of the code
        headers = {}
    place = waiting.context
    return Original(
        topic=place.topic or topic,
        value=waiting.payload,
        key=waiting.order_id.encode(),
        headers=tuple((name, value.encode()) for name, value in headers.items()),
        partition=place.partition,
        offset=place.offset,
    )
