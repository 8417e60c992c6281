"""One record to one function, as the source sends it and with the source's patience; or, where that was asked for, to a topic.

Only a refusal or spent retries end in failure. What is not the event's fault is waited for, however long it takes: the others in flight
wait too, and one at a time looks whether it is over.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from confluent_kafka import KafkaException, Message, Producer

from connectors.kafka_source import outage, sink
from connectors.kafka_source.answers import DUPLICATE, PARKED, Answer, Kind
from connectors.kafka_source.partition import Partition
from connectors.kafka_source.plan import Source
from connectors.kafka_source.record import Record
from ops import topics_admin
from ops.dlq.ledger import Result
from ops.dlq.originals import Original
from shared import broker, errors
from shared.config import Settings

CREATE_TIME = 1
RECORD_BYTES_MAX = 8 << 20
Told = Callable[[str | None], None]


class Stop:
    """Whether no more is to be sent; what waits is woken by it."""

    def __init__(self) -> None:
        self.number: int | None = None  # the signal that asked for it
        self._event = asyncio.Event()

    def set(self) -> None:
        """Send nothing more."""
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()

    async def sleep(self, seconds: float) -> bool:
        """Wait so long, or until nothing more is to be sent. Whether it may go on."""
        if seconds > 0 and not self:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), seconds)
        return not self


class Sender(Protocol):
    """Where items go."""

    where: str

    async def send(self, original: Original) -> Result | None:
        """What became of it; None when it was told to stop before anyone knew."""

    async def close(self) -> None:
        """Let go of connections."""


class ToFunction:
    """A function, by HTTP. `told` is called with the reason when it has to be waited for, and with None when that is over."""

    def __init__(self, source: Source, authorization: Mapping[str, str], stop: Stop, told: Told) -> None:
        self.where = source.sink
        self._source, self._stop, self._told = source, stop, told
        self._function, self._http = sink.clients(source, authorization)
        self._sink = sink.Sink(source, self._function, self._http)
        self._outage, self._probing = outage.Outage(), asyncio.Lock()

    async def send(self, original: Original) -> Result | None:
        """Send until there is an answer that counts."""
        record = _record(original)
        tries = failures = busy = 0
        while True:
            answer = await self._in_turn(record)
            if answer is None:
                return None
            tries += 1
            if answer.kind is Kind.DONE:
                return _done(answer, tries)
            if answer.kind is Kind.REFUSED:
                return _failed(answer, tries)
            if answer.kind is Kind.AWAY:
                busy += 1
                if answer.status == 409 and not await self._stop.sleep(outage.backoff_s(busy, answer.retry_after_s)):
                    return None
                continue
            if answer.kind is Kind.LOST and not await self._healthy():
                return None
            failures += 1
            if failures > self._source.retries:
                return _failed(answer, tries)
            if not await self._stop.sleep(self._source.delay_s(failures)):
                return None

    async def close(self) -> None:
        """Close the connections."""
        self._function.close()
        await self._http.aclose()

    async def _in_turn(self, record: Record) -> Answer | None:
        """Send it; while the function is away one at a time, each after a longer wait. None when it is not to be sent any more."""
        if not self._away():
            return None if self._stop else await self._judged(record, probe=False)
        async with self._probing:
            if self._away():
                may_go = await self._stop.sleep(self._outage.probe_at - time.monotonic())
                return await self._judged(record, probe=True) if may_go else None
        return await self._in_turn(record)

    def _away(self) -> bool:
        return self._outage.since is not None

    async def _judged(self, record: Record, *, probe: bool) -> Answer:
        answer = await self._sink.deliver([record], [])
        if not isinstance(answer, Answer):
            raise errors.Bug("one event was sent and several answers came")
        if answer.kind is Kind.AWAY and answer.status != 409:  # 409 concerns this event alone
            first = not self._away()
            self._outage.failed(time.monotonic(), answer.code)
            if first or probe:
                self._outage.wait_s(time.monotonic(), answer.retry_after_s)
            self._told(f"{answer.status or 'no connection'}: {answer.code}: {answer.detail}")
        elif self._away():
            self._outage.over(time.monotonic())
            self._told(None)
        return answer

    async def _healthy(self) -> bool:
        """Wait until GET /health answers 200: only then does a try that got no answer count. False when told to stop."""
        n = 0
        while not await self._sink.healthy():
            n += 1
            self._told(f"no answer, and {self._source.health} does not answer 200")
            if not await self._stop.sleep(outage.backoff_s(n, None)):
                return False
        if n:
            self._told(None)
        return True


class ToTopic:
    """A topic, for all who read it. `written` is the best that can be said then."""

    def __init__(self, settings: Settings, topic: str, stop: Stop, told: Told) -> None:
        self.where = f"topic {topic}"
        self._topic, self._stop, self._told, self._brokers = topic, stop, told, settings.kafka_brokers
        topics_admin.Admin(settings).known([topic])
        self._producer = Producer(
            broker.producer(settings, "orderflow-replay", delivery_timeout_s=10, message_bytes_max=RECORD_BYTES_MAX)
            | {"compression.type": "none"}
        )

    async def send(self, original: Original) -> Result | None:
        """Write until Kafka confirms or refuses it."""
        tries = 0
        while not self._stop:
            tries += 1
            try:
                place = await asyncio.to_thread(self._write, original)
            except errors.Unavailable as exc:
                self._told(exc.detail)
                if not await self._stop.sleep(outage.backoff_s(tries, None)):
                    return None
            except errors.Refused as exc:
                return Result("failed_again", exc.code, exc.detail, tries)
            else:
                self._told(None)
                return Result("written", detail=f"as {self._topic}[{place[0]}]@{place[1]}", tries=tries)
        return None

    async def close(self) -> None:
        """Nothing is in flight here: every write was waited for."""
        await asyncio.to_thread(self._producer.flush, 1)

    def _write(self, original: Original) -> tuple[int, int]:
        reports: list[tuple[object, Message]] = []
        try:
            self._producer.produce(
                self._topic,
                original.value,
                original.key,
                headers=list(original.headers),
                on_delivery=lambda error, message: reports.append((error, message)),
            )
        except BufferError as exc:
            raise errors.Unavailable("too much is waiting for Kafka") from exc
        except KafkaException as exc:
            raise topics_admin.translated(exc.args[0], self._brokers) from exc
        while not reports:
            self._producer.poll(0.05)
        (error, message), *_ = reports
        if error is not None:
            raise topics_admin.translated(error, self._brokers)
        return message.partition() or 0, message.offset() or 0


def _record(original: Original) -> Record:
    """The record as the source holds one. A place that nobody knows is told to nobody."""
    known = original.partition is not None and original.offset is not None
    number, offset = (original.partition or 0, original.offset or 0) if known else (0, 0)
    timestamp = (CREATE_TIME, original.timestamp_ms) if original.timestamp_ms is not None else None
    message = Message(
        topic=original.topic, partition=number, offset=offset, key=original.key, value=original.value, headers=list(original.headers),
        timestamp=timestamp,
    )  # fmt: skip
    of = Partition(original.topic, number, offset, None)
    if not known:
        of.number_text = ""
    return Record(message, of, offset, time.monotonic())


def _done(answer: Answer, tries: int) -> Result:
    if answer is PARKED:
        return Result("skipped", PARKED.outcome, "it waits behind an open letter of its order", tries)
    return Result("duplicate" if answer is DUPLICATE else "done", tries=tries)


def _failed(answer: Answer, tries: int) -> Result:
    return Result("failed_again", answer.code or "no_answer", answer.detail, tries, answer.place)
