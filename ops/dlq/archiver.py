"""From the dead-letter topics to S3, in a consumer group of its own. An offset is committed once S3 has confirmed every letter before it.

While S3 is away the process keeps its partitions and reads no further; nobody else waits for it. A partition that goes to another
process takes nothing along: what was not committed is read again there, and gets the same names.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ops import topics_admin
from ops.dlq import archive_line, archive_metrics, archive_places
from ops.dlq.archive_line import Written
from shared import broker, errors, topics
from shared.config import Settings

if TYPE_CHECKING:
    from ops.dlq.archive_store import Store

log = logging.getLogger(__name__)

GROUP = "orderflow-dlq-archive"
GROUP_SETTING = "KAFKA_DLQ_ARCHIVE_GROUP_ID"
POLL_S = 0.2
SILENCE_MAX_S = 60.0  # how long `once` waits for Kafka to say anything at all
BYTES_MAX = 64 << 20  # of all partitions together
AGAIN_S, AGAIN_MAX_S = 1.0, 30.0
_NO_LONGER_OURS = frozenset({KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS})


class Archiver:
    """One reader of every dead-letter topic. `told` hears of each object that S3 confirmed: key, what was done, letters."""

    def __init__(self, settings: Settings, store: "Store", told: Callable[[str, Written, int], None]) -> None:
        self.stopping = threading.Event()
        self.letters = self.objects = 0
        self._settings, self._store, self._told = settings, store, told
        self._topics = [topic.name for topic in topics.catalogue(settings).dead_letter_topics]
        self._places = archive_places.Places(settings, self._topics, self.stopping)
        self._uncommitted: dict[tuple[str, int], TopicPartition] = {}
        self._trouble: str | None = None
        self._again_s = self._again_at = 0.0
        self._failing_since: float | None = None
        self._held_since: float | None = None
        self._heard_at = 0.0
        self._consumer: Consumer

    def once(self, progress: Callable[[int, int], None]) -> None:
        """Archive what is there now. `progress` hears how many letters are read, of how many. Raises Unavailable or Refused."""
        topics_admin.Admin(self._settings).known(self._topics)
        self._open()
        try:
            while not self.stopping.is_set() and not (self._places.known and self._places.left() == 0):
                if self._poll(strict=True):
                    self._write()
                read = self.letters + self._held()
                progress(read, read + self._places.left())
                if time.monotonic() - self._heard_at > SILENCE_MAX_S:
                    raise errors.Unavailable(f"Kafka at {self._settings.kafka_brokers}: {self._trouble or 'the letters do not come'}")
            self._write()
        finally:
            self._consumer.close()

    def follow(self, every_s: float) -> None:
        """Archive until `stopping` is set, a letter at the latest `every_s` after it was read. Waits for S3 as long as it takes."""
        archive_metrics.watch(self._failing_s, self._held)
        self._places.patient = True
        self._open()
        try:
            while not self.stopping.is_set():
                full, now = self._poll(strict=False), time.monotonic()
                late = self._held_since is not None and now - self._held_since >= every_s
                if (full or late or self._uncommitted) and now >= self._again_at:
                    self._try_to_write()
                self._places.look_at_topics(self._consumer)
                for topic, count in self._places.behind(self._consumer).items():
                    archive_metrics.behind.labels(topic).set(count)
            if self._failing_since is None:
                self._try_to_write()
        finally:
            self._consumer.close()

    def _open(self) -> None:
        config = broker.client(self._settings, "orderflow-dlq-archive") | {
            "group.id": self._settings.override(GROUP_SETTING, GROUP),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "allow.auto.create.topics": False,
            "topic.metadata.refresh.interval.ms": 5000,
            "queued.max.messages.kbytes": 16384,
        }
        classic = {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
        protocol: dict[str, Any] = classic if self._settings.kafka_group_protocol == "classic" else {"group.protocol": "consumer"}
        self._consumer = Consumer(config | protocol)
        places = self._places
        self._consumer.subscribe(self._topics, on_assign=places.on_assign, on_revoke=places.on_revoke, on_lost=places.on_revoke)
        self._heard_at = time.monotonic()

    def _poll(self, *, strict: bool) -> bool:
        """Take what comes next; whether no more is to be read before something is written."""
        message = self._consumer.poll(POLL_S)
        if message is None:
            return False
        self._heard_at = time.monotonic()
        error = message.error()
        if error is not None:
            self._on_event(message, error, strict=strict)
            return False
        self._trouble = None
        topic, number, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
        batch = self._places.at(topic, number, offset)
        if batch is None:
            return False
        key, value = _bytes(message.key()), _bytes(message.value())
        batch.add(archive_line.of_record(topic, number, offset, timestamp_ms=message.timestamp()[1], key=key, value=value))
        if self._held_since is None:
            self._held_since = time.monotonic()
        return batch.full or sum(each.bytes for each in self._places.batches()) >= BYTES_MAX

    def _on_event(self, message: Message, error: KafkaError, *, strict: bool) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            self._places.reached(message.topic() or "", message.partition() or 0)
            return
        translated = topics_admin.translated(error, self._settings.kafka_brokers)
        if error.fatal() or (strict and isinstance(translated, errors.Refused)):
            raise translated
        text = f"{message.topic() or ''} {error.str()}".strip()
        if text != self._trouble:
            log.warning("Kafka: %s", text)
        self._trouble = text

    def _try_to_write(self) -> None:
        try:
            self._write()
        except errors.Unavailable as exc:
            now = time.monotonic()
            if self._failing_since is None:
                self._failing_since = now
            self._places.pause(self._consumer, wanted=True)
            self._again_s = min(max(self._again_s * 2, AGAIN_S), AGAIN_MAX_S)
            self._again_at = now + self._again_s
            facts = {"reason": exc.detail, "letters": self._held(), "since_s": round(self._failing_s()), "again_s": self._again_s}
            log.error("archiving is delayed; nothing is lost", extra=facts)  # noqa: TRY400  no fault of ours
            return
        if self._failing_since is not None:
            log.info("archiving goes on", extra={"after_s": round(self._failing_s())})
        self._failing_since, self._again_s, self._again_at = None, 0.0, 0.0
        self._places.pause(self._consumer, wanted=False)

    def _write(self) -> None:
        for batch in [batch for batch in self._places.batches() if batch.letters]:
            batch.write(self._store, self._count)
            self.letters += batch.letters
            archive_metrics.letters.inc(batch.letters)
            self._uncommitted[batch.topic, batch.partition] = archive_places.place(batch)
            batch.written()
        self._held_since = None
        ours = {(batch.topic, batch.partition) for batch in self._places.batches()}
        places = [place for key, place in self._uncommitted.items() if key in ours]
        if not places:
            return
        try:
            self._consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as exc:
            if exc.args[0].code() not in _NO_LONGER_OURS:
                raise errors.Unavailable(f"Kafka did not take the place that S3 has confirmed: {exc.args[0].str()}") from exc
            log.warning("a partition went to another process: its letters are archived once more, under the same names")
        self._uncommitted = {}

    def _count(self, key: str, outcome: Written, letters: int) -> None:
        self.objects += 1
        archive_metrics.objects.labels(outcome).inc()
        self._told(key, outcome, letters)

    def _held(self) -> int:
        return sum(batch.letters for batch in self._places.batches())

    def _failing_s(self) -> float:
        return 0.0 if self._failing_since is None else time.monotonic() - self._failing_since


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
