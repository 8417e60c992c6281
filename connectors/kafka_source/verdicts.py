"""What each answer means for its records: settled, tried again and when, or a letter."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from connectors.kafka_source import breaker, letter, metrics, outage, suspects
from connectors.kafka_source.answers import DONE, DUPLICATE, PARKED, Answer, Kind
from connectors.kafka_source.lanes import Lanes
from connectors.kafka_source.partition import Partition
from connectors.kafka_source.plan import Source
from connectors.kafka_source.record import Record
from connectors.kafka_source.sink import Sink
from shared.config import Settings

log = logging.getLogger(__name__)


class Verdicts:
    """The rules of one source. `go` sends what may be sent; it is called whenever that may have changed."""

    def __init__(
        self, source: Source, lanes: Lanes, sink: Sink, letters: letter.Letters, settings: Settings, *, go: Callable[[], None]
    ) -> None:
        self.outage = outage.Outage()
        self.breaker = breaker.Breaker(source.name, settings)
        self.suspects = suspects.Suspects(source.name, sink.healthy, self._unhealthy, self._lost)
        self.batches = source.batch_size > 1
        self._source = source
        self._lanes = lanes
        self._letters = letters
        self._unavailable_max_s = settings.kafka_unavailable_max
        self._go = go
        self._stopped: list[Record] = []  # what the breaker keeps from becoming letters

    def each(self, group: Sequence[Record], found: Sequence[Answer]) -> None:
        """Every record of `group` has its own answer."""
        away: list[tuple[Record, Answer]] = []
        outcomes: dict[str, int] = {}
        moved: set[Partition] = set()
        finish = self._lanes.finish
        duplicates = parked = passed = 0
        for record, answer in zip(group, found, strict=True):
            if answer is DONE or answer is DUPLICATE or answer is PARKED:
                duplicates += answer is DUPLICATE
                parked += answer is PARKED
                passed += 1
                record.done = True
                moved.add(record.partition)
                finish(record)
                continue
            self.breaker.passed(passed)
            passed = 0
            outcomes[answer.kind.value] = outcomes.get(answer.kind.value, 0) + 1
            record.tries += 1
            if answer.kind is Kind.AWAY:
                away.append((record, answer))
            else:
                self._failed(record, answer)
        for partition in moved:
            partition.settle()
        self.breaker.passed(passed)
        if self.breaker.probe is not None and self.breaker.probe.done:
            self.breaker.over()
        self._put_back()
        outcomes |= {"done": len(group) - sum(outcomes.values()) - duplicates - parked, "duplicate": duplicates, "parked": parked}
        for outcome, n in outcomes.items():
            metrics.records.labels(self._source.name, outcome).inc(n)
        if any(answer.kind not in {Kind.AWAY, Kind.LOST} for answer in found):
            self._resume()
        if away:
            self._wait(away)

    def _failed(self, record: Record, answer: Answer) -> None:
        """An answer that is, or may be, the event's fault."""
        if answer.kind is Kind.REFUSED:
            self._fail(record, "refused", answer)
        elif answer.kind is Kind.COUNTED:
            self._count(record, answer)
        else:
            self.suspects.no_answer([record], answer)

    def whole(self, group: list[Record], answer: Answer) -> None:
        """One answer holds for a batch of several. What may be one event's fault is looked for by halves."""
        metrics.records.labels(self._source.name, answer.kind.value).inc(len(group))
        for record in group:
            record.tries += 1
        if answer.kind is Kind.LOST:
            self.suspects.no_answer(group, answer)
            return
        if answer.kind is Kind.AWAY:
            self._wait([(record, answer) for record in group])
            return
        self._resume()
        if answer.status == 415:
            log.warning("the function takes no batches: events are sent one by one", extra={"source": self._source.name})
            self.batches = False
            self._lanes.again(group)
            return
        if answer.kind is Kind.COUNTED:
            suspects.count_shared(group)
        self.suspects.halve(group)

    def _count(self, record: Record, answer: Answer) -> None:
        """A try that counts, of this record alone."""
        record.failures += 1
        record.aways, record.away_since = 0, None
        if record.failures > self._source.retries:
            self._fail(record, "out_of_retries", answer)
            return
        if record is self.breaker.probe:
            self._probe_again(record, answer)
            return
        again = self._suspect if answer.kind is Kind.LOST else self._ready
        asyncio.get_running_loop().call_later(self._source.delay_s(record.failures), again, [record])

    def _suspect(self, group: list[Record]) -> None:
        self.suspects.add(group)
        self._go()

    def _ready(self, records: list[Record]) -> None:
        self._lanes.again(records)
        self._go()

    # --- not the event's fault -----------------------------------------------------------------------------------------

    def _wait(self, away: Sequence[tuple[Record, Answer]]) -> None:
        """Each is tried again, for as long as it takes or KAFKA_UNAVAILABLE_MAX says."""
        now = time.monotonic()
        self._away(now, away[0][1])
        waits: dict[tuple[int, float | None], list[Record]] = {}
        back: list[Record] = []
        probing = False
        for record, answer in away:
            record.aways += 1
            record.away_since = record.away_since or now
            if self._expired(record, now):
                self._fail(record, "dependency_away", answer)
            elif record is self.breaker.probe:
                probing = answer.status != 409
                self._probe_again(record, answer)
            elif self.outage.paused and answer.status != 409:
                back.append(record)
            else:
                waits.setdefault((record.aways, answer.retry_after_s), []).append(record)
        loop = asyncio.get_running_loop()
        for (n, retry_after_s), records in waits.items():
            loop.call_later(outage.backoff_s(n, retry_after_s), self._ready, records)
        self._lanes.again(back)
        if self.outage.paused:
            # What a busy event (409) waits for does not hold up the next probe.
            outage.call_at(now + (self.outage.wait_s(now, away[0][1].retry_after_s) if back or probing else 0.0), self._go)

    def _expired(self, record: Record, now: float) -> bool:
        if self._unavailable_max_s is None:
            return False
        since = now if record.away_since is None else record.away_since
        if self.outage.since is not None:
            since = min(since, max(record.arrived, self.outage.since))
        return now - since >= self._unavailable_max_s

    def _away(self, now: float, answer: Answer) -> None:
        reason = f"{answer.status or 'no connection'}: {answer.code}: {answer.detail}"[:300]
        if self.outage.failed(now, reason):
            log.warning(
                "paused: nothing but failures that are no event's fault; one event at a time is tried",
                extra={"source": self._source.name, "reason": reason},
            )

    def _resume(self) -> None:
        paused_s = self.outage.over(time.monotonic())
        if paused_s is not None:
            metrics.paused_seconds.labels(self._source.name).inc(paused_s)
            log.info("resumed", extra={"source": self._source.name, "paused_s": round(paused_s, 1)})

    # --- no answer -----------------------------------------------------------------------------------------------------

    def _unhealthy(self, now: float) -> None:
        """GET /health does not answer 200, so nothing is sent; what has waited too long gets its letter all the same."""
        self._away(now, Answer(Kind.AWAY, None, "unhealthy", f"no answer, and {self._source.health} does not answer 200"))
        for group, answer in self.suspects.lost:
            for record in [record for record in group if self._expired(record, now)]:
                group.remove(record)
                self._fail(record, "dependency_away", answer)

    def _lost(self, group: list[Record], answer: Answer) -> None:
        """GET /health answers 200: the try that got no answer counts. Of `group` nothing may be left, and all the same others wait."""
        if len(group) > 1:
            suspects.count_shared(group)
            self.suspects.halve(group)
        elif group:
            self._count(group[0], answer)
            self._put_back()
        self._go()

    # --- letters -------------------------------------------------------------------------------------------------------

    def resume(self, accept_letters: int | None) -> None:
        """Go on by hand, whatever the breaker says."""
        probe = self.breaker.close(accept_letters)
        if probe is not None:
            self._lanes.again([probe])

    def _fail(self, record: Record, reason: letter.Reason, answer: Answer) -> None:
        if reason == "dependency_away" or record.partition.closed:
            self.breaker.gone(record)
        elif not self.breaker.lets(record, answer):
            if record is self.breaker.probe:
                self._probe_again(record, answer)
            else:
                self._stopped.append(record)
            return
        self._letters.start(record, letter.Failure(reason, answer, record.tries), self._lettered)

    def _probe_again(self, record: Record, answer: Answer) -> None:
        now = time.monotonic()
        outage.call_at(now + self.breaker.hold(record, now, answer.retry_after_s), self._go)

    def _put_back(self) -> None:
        """What the breaker stopped is ready once more, for when it lets records through."""
        self._lanes.again(self._stopped)
        self._stopped = []

    def _lettered(self, record: Record, safe: bool) -> None:
        """The letter of `record` is safe, or its partition is no longer ours."""
        if safe:
            record.done = True
            record.partition.settle()
            self._lanes.finish(record)
            self._go()
