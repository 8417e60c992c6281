"""One worker's producer: it publishes claimed rows, key by key one at a time, and says what Kafka reported of each."""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.outbox_relay.rows import Row
from shared import broker
from shared.config import Settings

RECORD_BYTES_MAX = 64 << 20  # the broker's own limit is what counts
POLL_S = 0.05
FLUSH_S = 0.02
LINGER_MS = 50  # never waited for: a flush sends what is queued. Until then it keeps the client from sending the first few rows alone
QUEUE_FULL_MAX = 100
BEGIN_S = 1.0  # a transaction is not kept open to begin more; what was not begun by then is claimed again
GRACE_S = 2.0  # a report comes within the delivery timeout; should one not, the client is given up

# Of these the broker speaks for a whole batch of records, so one bad record's neighbours get the same report: each is tried alone.
_BY_BATCH = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP, KafkaError.INVALID_MSG})
_PERMANENT = _BY_BATCH | {
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.POLICY_VIOLATION,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    KafkaError._INVALID_ARG,
}
_UNKNOWN_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that can never be sent as it is."""

    row: Row
    reason: str
    detail: str


@dataclass(slots=True)
class Outcome:
    """What became of the rows. Those in none of the lists were not tried."""

    sent: list[Row] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    unknown: list[Row] = field(default_factory=list)
    unknown_topics: set[str] = field(default_factory=set)
    last_error: str = ""
    fatal: bool = False
    seconds: float = 0.0


class Publisher:
    """An idempotent producer that one thread uses."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = broker.producer(
            settings,
            name,
            delivery_timeout_s=settings.relay_delivery_timeout,
            message_bytes_max=RECORD_BYTES_MAX,
            **{"linger.ms": LINGER_MS, "partitioner": "murmur2_random"},  # as Java clients do it: a key lies where others look for it
        )
        self._begin_before = 0.0
        self._report_timeout_s = settings.relay_delivery_timeout + GRACE_S
        self._producer = Producer(self._settings)
        self._reports: deque[tuple[Row, KafkaError | None]] = deque()

    def publish(self, lines: Iterable[list[Row]], stop: Callable[[], bool]) -> Outcome:
        """Publish each line's rows in order, each only after the report of the one before. Returns when every report is there.

        `stop` is asked while it waits; once it is true, what is queued or in flight is dropped, and its outcome is unknown.
        """
        outcome = Outcome()
        self._begin_before = time.monotonic() + BEGIN_S
        try:
            suspects = self._fly({line[0]: deque(line[1:]) for line in lines}, outcome, stop, alone=False)
            for row in suspects:
                if time.monotonic() < self._begin_before:
                    self._fly({row: deque()}, outcome, stop, alone=True)
        except BaseException:
            self._replace()  # or the rest would fly on without the locks that the caller now gives up
            raise
        if outcome.fatal:
            self._replace()
        return outcome

    def _replace(self) -> None:
        self._producer.purge(in_queue=True, in_flight=True, blocking=False)
        self._producer = Producer(self._settings)
        self._reports.clear()

    def _fly(self, flying: dict[Row, deque[Row]], outcome: Outcome, stop: Callable[[], bool], *, alone: bool) -> list[Row]:
        suspects = []
        for row in flying:
            self._produce(row)
        deadline, dropped = time.monotonic() + self._report_timeout_s, False
        while flying:
            self._producer.flush(0 if self._reports else FLUSH_S)
            while self._reports:
                row, error = self._reports.popleft()
                following = flying.pop(row, None)
                if following is None:
                    continue
                if error is not None and error.code() in _BY_BATCH and not alone:
                    suspects.append(row)
                elif _settle(outcome, row, error) and following and not dropped and time.monotonic() < self._begin_before:
                    flying[following.popleft()] = following
                    self._produce(next(reversed(flying)))
                    deadline = time.monotonic() + self._report_timeout_s
            if not flying or not (dropped or stop() or time.monotonic() > deadline):
                continue
            if dropped and time.monotonic() > deadline:
                outcome.fatal = True
                outcome.unknown.extend(flying)
                break
            if not dropped:
                dropped, deadline = True, time.monotonic() + GRACE_S
                self._producer.purge(in_queue=True, in_flight=True, blocking=False)
        return suspects

    def _produce(self, row: Row) -> None:
        try:
            headers = row.record_headers()
        except (ValueError, UnicodeEncodeError) as exc:
            self._reports.append((row, KafkaError(KafkaError.INVALID_RECORD, f"the headers are not names with texts: {exc}")))
            return
        report = functools.partial(self._report, row)
        for _ in range(QUEUE_FULL_MAX):
            try:
                self._producer.produce(row.topic, key=row.key, value=row.value, headers=headers, on_delivery=report)
            except BufferError:
                self._producer.poll(POLL_S)
            except KafkaException as exc:
                self._reports.append((row, exc.args[0]))
                return
            else:
                return
        self._reports.append((row, KafkaError(KafkaError._QUEUE_FULL)))

    def _report(self, row: Row, error: KafkaError | None, _message: Message) -> None:
        self._reports.append((row, error))


def _settle(outcome: Outcome, row: Row, error: KafkaError | None) -> bool:
    """File `row` by its report. Whether it was sent."""
    if error is None:
        outcome.sent.append(row)
        return True
    code = error.code()
    if code in _PERMANENT:
        outcome.failed.append(Failure(row, error.name().lower().strip("_"), f"{error.name()}: {error.str()}"))
        return False
    if code in _UNKNOWN_TOPIC:
        outcome.unknown_topics.add(row.topic)
    outcome.fatal = outcome.fatal or error.fatal() or code == KafkaError._FATAL
    outcome.unknown.append(row)
    outcome.last_error = error.name()
    return False
