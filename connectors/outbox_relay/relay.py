"""The relay: workers that take turns at claiming and then wait for Kafka side by side, and a listener for hints.

A worker's round is one transaction: claim, publish, wait for the reports, mark, commit. A relay that dies in between leaves the rows as
they were, and they are published again with the same event id.
"""

import logging
import random
import threading
import time
from collections import Counter

from connectors.outbox_relay import metrics, rows
from connectors.outbox_relay.publisher import Failure, Outcome, Publisher
from connectors.outbox_relay.rows import Position, Row
from connectors.outbox_relay.schedule import Schedule
from connectors.outbox_relay.topics import LOOK_INTERVAL_S, Topics
from shared import database, errors, outbox
from shared.config import Settings
from shared.database import Transaction

log = logging.getLogger(__name__)

BACKOFF_S, BACKOFF_MAX_S = 0.1, 2.0
MARK_S = 5.0  # between the last report and the end of the transaction, which PostgreSQL ends by itself after DELIVERY_DEADLINE


class Relay:
    """All of it, in threads of its own between `start` and `stop`."""

    def __init__(self, settings: Settings) -> None:
        """Connects to nothing yet. Raises ConfigError where a transaction could not outlive the wait for Kafka."""
        if settings.relay_delivery_timeout > settings.delivery_deadline - MARK_S:
            raise errors.ConfigError(
                [f"RELAY_DELIVERY_TIMEOUT: must end {MARK_S:.0f}s before DELIVERY_DEADLINE, at which PostgreSQL ends an idle transaction"]
            )
        self._settings = settings
        workers = settings.relay_workers
        self.database = database.connect("relay", settings.model_copy(update={"postgres_connections": workers + 1}), "orderflow-relay")
        self._schedule = Schedule(settings.relay_sweep_interval)
        self._topics = Topics(settings)
        self._claims = rows.Claims(rows_max=settings.relay_batch_rows, bytes_max=settings.relay_batch_bytes, workers=workers)
        self._drop = threading.Event()
        self._ended = threading.Event()
        self._database_away = False
        self._workers = [threading.Thread(target=self._work, args=(n,), name=f"relay-{n}", daemon=True) for n in range(workers)]
        self._listener = threading.Thread(target=self._listen, name="relay-hints", daemon=True)

    @property
    def state(self) -> str:
        """running, draining, kafka_away or database_away."""
        if self._schedule.ended:
            return "draining"
        if self._schedule.is_kafka_away:
            return "kafka_away"
        return "database_away" if self._database_away else "running"

    def start(self) -> None:
        """Begin to publish."""
        for thread in (*self._workers, self._listener):
            thread.start()

    def stop(self, timeout_s: float) -> None:
        """Claim no more, and finish what is in flight; what is not confirmed by `timeout_s` stays pending."""
        deadline = time.monotonic() + timeout_s
        self._schedule.end()
        self._ended.set()
        for thread in self._workers:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._drop.set()
        for thread in self._workers:
            thread.join(2.0)

    def _work(self, n: int) -> None:
        publisher = Publisher(self._settings, f"orderflow-relay-{n}")
        failures = 0
        while (position := self._schedule.turn()) is not None:
            try:
                moved = _Round(self._schedule, self._topics, self._claims, self._drop).run(self.database, publisher, position)
                self._database_is(away=False)
                failures = 0
                if moved:
                    self._schedule.wake()
            except _KafkaAwayError as exc:
                self._wait_for_kafka(str(exc))
            except errors.Retryable as exc:
                self._database_is(away=True, reason=exc.detail)
                failures += 1
                self._pause(failures)
            except Exception:
                log.exception("a round failed in a way nobody foresaw; its rows stay as they were")
                failures += 1
                self._pause(failures)

    def _listen(self) -> None:
        failures = 0
        while not self._ended.is_set():
            try:
                with self.database.listen(outbox.CHANNEL) as wait:
                    self._schedule.wake()
                    failures = 0
                    while not self._ended.is_set():
                        if wait(min(1.0, self._settings.relay_sweep_interval)):
                            self._schedule.wake()
            except errors.OrderflowError as exc:
                failures += 1
                if failures == 1:
                    log.warning("no hints come; the relay looks on its own meanwhile", extra={"reason": exc.detail})
                self._pause(failures)

    def _wait_for_kafka(self, reason: str) -> None:
        if self._drop.is_set() or not self._schedule.kafka_away():
            return
        log.warning("Kafka is away: nothing is claimed until it answers", extra={"reason": reason})
        since, failures = time.monotonic(), 0
        while not self._topics.reachable(timeout_s=2.0) and not self._schedule.ended:
            failures += 1
            self._pause(failures)
        if self._schedule.ended:
            return
        self._schedule.kafka_back()
        log.info("Kafka answers", extra={"away_s": round(time.monotonic() - since, 1)})

    def _database_is(self, *, away: bool, reason: str = "") -> None:
        if away == self._database_away:
            return
        self._database_away = away
        if away:
            log.warning("the database is away: rows wait in it", extra={"reason": reason})
        else:
            log.info("the database answers")

    def _pause(self, failures: int) -> None:
        longest = min(BACKOFF_S * 2 ** min(failures - 1, 10), BACKOFF_MAX_S)
        self._ended.wait(longest * random.uniform(0.5, 1.0))  # noqa: S311  jitter, no secret


class _KafkaAwayError(Exception):
    """Nothing at all came through."""


class _Round:
    """One worker's turn and what follows from it."""

    def __init__(self, schedule: Schedule, topics: Topics, claims: rows.Claims, drop: threading.Event) -> None:
        self._schedule, self._topics, self._claims, self._drop = schedule, topics, claims, drop
        self._in_turn = True

    def run(self, database: database.Database, publisher: Publisher, position: Position) -> bool:
        """Claim from `position`, publish, mark. Whether any row moved. Raises Retryable, _KafkaAwayError."""
        try:
            outcome = database.transact(lambda tx: self._round(tx, publisher, position))
        finally:
            self._done(position)  # a look that failed begins where it began
        _count(outcome)
        if outcome.unknown and not outcome.sent and not outcome.unknown_topics:
            raise _KafkaAwayError(outcome.last_error)
        return bool(outcome.sent or outcome.failed)

    def _round(self, tx: Transaction, publisher: Publisher, position: Position) -> Outcome:
        claim = self._claims.take(tx, position, self._topics.held())
        look_in_s = rows.next_due_s(tx) if claim.beyond is None else None
        lines = self._with_topic(claim.lines)
        if self._topics.held():
            look_in_s = min(LOOK_INTERVAL_S, look_in_s if look_in_s is not None else LOOK_INTERVAL_S)
        self._done(claim.beyond, look_in_s, found=bool(claim.lines))
        claimed_at = time.monotonic()
        outcome = publisher.publish(lines, lambda: self._drop.is_set() or tx.lost())
        for topic in outcome.unknown_topics:
            self._topics.lost(topic)
        self._topics.doubt({row.topic for row in outcome.unknown})
        outcome.failed += self._set_aside(claim.lines)
        rows.mark(tx, outcome.sent, [(failure.row, failure.detail) for failure in outcome.failed])
        outcome.seconds = time.monotonic() - claimed_at
        return outcome

    def _with_topic(self, lines: list[list[Row]]) -> list[list[Row]]:
        """Those of `lines` whose topic is there. Raises _KafkaAwayError."""
        try:
            self._topics.look({line[0].topic for line in lines})
        except errors.Unavailable as exc:
            raise _KafkaAwayError(exc.detail) from exc
        return [line for line in lines if not self._topics.missing(line[0].topic)]

    def _set_aside(self, lines: list[list[Row]]) -> list[Failure]:
        """The heads whose topic has been unknown for too long."""
        held = set(self._topics.held())
        return [
            Failure(line[0], "unknown_topic", f"the topic {line[0].topic} does not exist")
            for line in lines
            if self._topics.missing(line[0].topic) and line[0].topic not in held
        ]

    def _done(self, beyond: Position | None, look_in_s: float | None = None, *, found: bool = False) -> None:
        if self._in_turn:
            self._in_turn = False
            self._schedule.done(beyond, look_in_s=look_in_s, found=found)


def _count(outcome: Outcome) -> None:
    for topic, count in Counter(row.topic for row in outcome.sent).items():
        metrics.published.labels(topic).inc(count)
    for row in outcome.sent:
        metrics.publish_seconds.observe(row.waited_s + outcome.seconds)
    metrics.unknown.inc(len(outcome.unknown))
    for failure in outcome.failed:
        metrics.failed.labels(failure.reason).inc()
        log.error(
            "a row is set aside: it can never be sent as it is, and later rows of its key wait",
            extra={"event_id": failure.row.event_id, "topic": failure.row.topic, "reason": failure.detail},
        )
