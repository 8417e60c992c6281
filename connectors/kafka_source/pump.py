"""Deliveries in flight: which records go next, and when nothing does. Everything here runs in the event loop."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from connectors.kafka_source import answers, lanes, letter, metrics, verdicts
from connectors.kafka_source.answers import Answer, Kind
from connectors.kafka_source.plan import Source
from connectors.kafka_source.record import Record
from connectors.kafka_source.sink import BATCH_BYTES_MAX, Sink
from shared.config import Settings

log = logging.getLogger(__name__)

Group = tuple[list[Record], list[bytes]]  # records, and what they are as elements where they go as a batch
_READY_MIN = 500
_SHARE_MIN = 50


class Pump:
    """The deliveries of one source."""

    def __init__(
        self, source: Source, sink: Sink, letters: letter.Letters, settings: Settings, failed: Callable[[BaseException], None]
    ) -> None:
        self.source = source
        self.held: str | None = None
        self.stopping = False
        self.probing = False
        self._sink = sink
        self._failed = failed
        self._letters = letters
        self._lanes = lanes.Lanes(ordered=source.ordered)
        self._verdicts = verdicts.Verdicts(source, self._lanes, sink, letters, settings, go=self.go)
        self.outage = self._verdicts.outage
        self.breaker = self._verdicts.breaker
        self._suspects = self._verdicts.suspects
        self._delivering: set[asyncio.Task[None]] = set()
        self._enough = max(_READY_MIN, 2 * source.batch_size * source.requests_in_flight)
        self._alone = False
        self._batch_timer: asyncio.TimerHandle | None = None

    def accept(self, records: Iterable[Record]) -> None:
        """`records` have arrived, in the order of their offsets."""
        add = self._lanes.add
        for record in records:
            record.partition.accept(record)
            add(record)
        self.go()

    @property
    def wants_pause(self) -> bool:
        """Whether Kafka should send nothing more for now. While an outage lasts, one record must be there to probe with."""
        if self.held is not None or self.stopping:
            return True
        if self.breaker.open and self.breaker.pending:
            return True
        return (self.outage.paused or self.breaker.open) and bool(self._lanes.ready or self._suspects or self._suspects.lost)

    @property
    def crowded(self) -> bool:
        """Whether enough is ready for the next requests; more would only grow cold in memory."""
        return len(self._lanes.ready) >= self._enough

    @property
    def overcrowded(self) -> bool:
        """Whether twice as much is ready: the function is slower than the topic, and waiting for a moment does not help."""
        return len(self._lanes.ready) >= 2 * self._enough

    def share(self, partitions: int) -> int:
        """How many records one of so many partitions may bring while it is overcrowded: so many in all as would make it that."""
        return max(_SHARE_MIN, 2 * self._enough // max(1, partitions))

    @property
    def roomy(self) -> bool:
        """Whether so little is ready that more should be fetched where that was stopped."""
        return len(self._lanes.ready) <= self._enough // 2

    async def release(self, wait_s: float) -> None:
        """Let what is in flight end, within `wait_s`, now that some partitions are closed."""
        flying = set(self._delivering)
        if flying:
            await asyncio.wait(flying, timeout=wait_s)
        await self._letters.end(min(wait_s, 1.0), closed_only=True)

    async def stop(self, wait_s: float) -> None:
        """No new deliveries; those in flight, and their letters, get `wait_s` to end."""
        self.stopping = True
        until = time.monotonic() + wait_s
        flying = set(self._delivering)
        if flying:
            _, late = await asyncio.wait(flying, timeout=wait_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._letters.end(max(0.0, until - time.monotonic()), closed_only=False)
        self._suspects.stop()

    def go(self) -> None:
        """Send what may be sent."""
        while self._may_send():
            suspects = bool(self._suspects)
            group, elements = self._take()
            if not group and not self._suspects:
                return
            if not group:
                continue  # a record that cannot be put into a batch is to go alone
            self._alone = suspects
            self.probing = self.outage.paused or self.breaker.open
            task = asyncio.get_running_loop().create_task(self._deliver(group, elements))
            self._delivering.add(task)
            task.add_done_callback(self._ended)

    def _may_send(self) -> bool:
        if self.stopping or self.held is not None or self._suspects.checking:
            return False
        flying = len(self._delivering)
        if self.breaker.open and not self.breaker.may_probe(time.monotonic()):
            return False
        if self.outage.paused or self.breaker.open:
            return not flying and time.monotonic() >= self.outage.probe_at
        if self._suspects:
            return not flying
        return not self._alone and flying < self.source.requests_in_flight

    def resume(self, accept_letters: int | None) -> None:
        """Go on, though paused by hand or by the breaker."""
        self.held = None
        self._verdicts.resume(accept_letters)
        self.go()

    def _take(self) -> Group:
        if self.breaker.open:
            return self._take_probe()
        suspects = self._suspects.take(one=self.outage.paused)
        if suspects:
            return suspects, []
        if self._verdicts.batches and not self.outage.paused:
            return ([], []) if self._too_early() else self._take_batch()
        record = self._lanes.next()
        return ([], []) if record is None else ([record], [])

    def _take_probe(self) -> Group:
        """The record whose letter is held back; the next one, where that was taken from us."""
        record = self.breaker.take() or next(iter(self._suspects.take(one=True)), None) or self._lanes.next()
        if record is None:
            return [], []
        self.breaker.sent(record)
        return [record], []

    def _take_batch(self) -> Group:
        group: list[Record] = []
        elements: list[bytes] = []
        aside: list[Record] = []
        keys: set[bytes] = set()
        size = 0
        following, most = self._lanes.next, self.source.batch_size
        while len(group) < most and len(aside) < most and (record := following()) is not None:
            key = record.key
            if key is not None:
                if key in keys:  # at most one event of a key in a batch, from whichever partition
                    aside.append(record)
                    continue
                keys.add(key)
            element = self._element(record)
            if element is None:
                continue
            size += len(element) + 1
            if group and size > BATCH_BYTES_MAX:
                aside.append(record)
                break
            group.append(record)
            elements.append(element)
        self._lanes.again(aside)
        return group, elements

    def _element(self, record: Record) -> bytes | None:
        """The record as an element of a batch. One that this source cannot make goes alone, and fails alone."""
        try:
            return self._sink.envelope.element(record)
        except Exception:  # a bug of ours must neither lose a record nor stop the others
            log.exception("a record could not be put into a batch", extra={"source": self.source.name, "offset": record.offset})
            self._suspects.add([record])
            return None

    def _too_early(self) -> bool:
        """Whether a batch that is not full should still wait for more (orderflow.dev/batch-wait)."""
        ready = self._lanes.ready
        if not self.source.batch_wait_s or not ready or len(ready) >= self.source.batch_size:
            return False
        left = ready[0].arrived + self.source.batch_wait_s - time.monotonic()
        if left > 0 and self._batch_timer is None:
            self._batch_timer = asyncio.get_running_loop().call_later(left, self._batch_time)
        return left > 0

    def _batch_time(self) -> None:
        self._batch_timer = None
        self.go()

    async def _deliver(self, group: list[Record], elements: Sequence[bytes]) -> None:
        name = self.source.name
        began = time.monotonic()
        try:
            if len(group) > 1 and not elements:
                elements = [self._sink.envelope.element(record) for record in group]
            answer = await self._sink.deliver(group, elements)
        except Exception as exc:  # a bug of ours must not hold a partition for ever: it counts, and halving finds its record
            log.exception("a delivery could not be made", extra={"source": name})
            answer = Answer(Kind.COUNTED, None, "source_error", answers.cut(f"the source could not send this record: {exc!r}"))
        metrics.request_seconds.labels(name).observe(time.monotonic() - began)
        metrics.request_records.labels(name).observe(len(group))
        status = answer.status if isinstance(answer, Answer) else 207
        metrics.requests.labels(name, "none" if status is None else str(status)).inc()
        self._delivering.discard(asyncio.current_task())
        self._alone = self.probing = False
        if not isinstance(answer, Answer):
            self._verdicts.each(group, answer)
        elif len(group) == 1:
            self._verdicts.each(group, [answer])
        else:
            self._verdicts.whole(group, answer)
        self.go()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._delivering.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._failed(bug)  # its records would be held for ever, unseen
