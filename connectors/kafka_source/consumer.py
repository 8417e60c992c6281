"""The one thread that speaks to Kafka for a source: it polls, commits, pauses and rebalances. (Commits from another thread hung.)

Records go to the event loop by `call_soon_threadsafe`; what may be committed comes back as `Partition.mark`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.kafka_source.assignment import Assignment
from connectors.kafka_source.partition import Partition
from connectors.kafka_source.plan import Source
from connectors.kafka_source.pump import Pump
from connectors.kafka_source.record import Record
from connectors.kafka_source.topic_watch import TopicWatch
from shared import broker
from shared.config import Settings

log = logging.getLogger(__name__)

POLL_RECORDS = 500
POLL_IDLE_S = 0.25
POLL_BUSY_S = 0.02  # while something is in flight, so that it is committed soon after
ROOM_WAIT_S = 0.1  # how long a full partition may drain before it is paused: a pause throws away what librdkafka has fetched


class Reader(threading.Thread):
    """Reads one source's topics. `failed` is called, in this thread, with what ended it before its time."""

    def __init__(
        self, source: Source, settings: Settings, pump: Pump, loop: asyncio.AbstractEventLoop, failed: Callable[[BaseException], None]
    ) -> None:
        super().__init__(name=f"kafka-{source.name}", daemon=True)
        self.trouble: str | None = None
        self.assignment = Assignment(source, pump, loop, TopicWatch(source, settings), settings.shutdown_timeout)
        self._source = source
        self._settings = settings
        self._pump = pump
        self._loop = loop
        self._failed = failed
        self._ended = threading.Event()
        self._poll_records = min(POLL_RECORDS, max(1, source.records_ahead_max // 2))
        self._ahead_max = max(1, source.records_ahead_max - self._poll_records)
        self._consumer: Consumer

    def end(self) -> None:
        """Commit what is settled, leave the group, end the thread."""
        self._ended.set()

    def run(self) -> None:
        """The thread."""
        assignment = self.assignment
        try:
            self._consumer = Consumer(self._config())
            self._consumer.subscribe(
                list(self._source.topics), on_assign=assignment.on_assign, on_revoke=assignment.on_revoke, on_lost=assignment.on_lost
            )
            while not self._ended.is_set():
                self._turn()
            assignment.commits.make(self._consumer, list(assignment.partitions.values()), sync=True)
            self._consumer.close()
        except BaseException as exc:  # noqa: BLE001  whatever ends this thread before its time must end the process, and loudly
            self._failed(exc)

    def lag(self) -> int | None:
        """Records between the committed offsets and the ends of our partitions, as last heard; None where that is not known."""
        lags = [partition.lag() for partition in list(self.assignment.partitions.values())]
        return None if not lags or None in lags else sum(lag or 0 for lag in lags)

    def _config(self) -> dict[str, object]:
        protocol: dict[str, object] = {"group.protocol": "consumer"}
        if self._settings.kafka_group_protocol == "classic":
            protocol = {
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": 6000,  # a killed process holds its partitions for as long
                "heartbeat.interval.ms": 500,
            }
        return {
            **broker.client(self._settings, f"orderflow-{self._source.name}", self._hear),
            **protocol,
            "group.id": self._source.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",  # also for an offset out of range: better twice than never
            "isolation.level": "read_committed",
            "enable.partition.eof": True,  # the end may lie behind records that never come: transactions
            "topic.metadata.refresh.interval.ms": 5000,
            "fetch.wait.max.ms": 100,  # what is resumed waits until the fetch of the partitions that were open has its answer
            # Longer than it takes to ask who coordinates the group, behind a fetch that waits for 0.1 s. A commit whose connection was cut
            # would else be in the queue of the connection that the answer closes, fail with it, and have the question asked again, over and
            # over (40 s were seen) and without a heartbeat (https://github.com/confluentinc/librdkafka/issues/3645).
            "retry.backoff.ms": 1000,
            "retry.backoff.max.ms": 2000,
            "queued.max.messages.kbytes": 4096,
            "fetch.queue.backoff.ms": 10,  # its own 1000 would let large records run out long before more are fetched
            "on_commit": self.assignment.commits.on_commit,
        }

    def _hear(self, trouble: str) -> None:
        """Wrong settings make no event: the client only goes on trying."""
        self.trouble = trouble

    def _turn(self) -> None:
        self._flow()
        partitions = self.assignment.partitions
        busy = any(not p.idle or p.mark.offset > p.committed.offset for p in partitions.values())
        message = self._consumer.poll(POLL_BUSY_S if busy else POLL_IDLE_S)
        if message is not None:
            most = min(self._poll_records, self._pump.share(len(partitions))) if self._pump.overcrowded else self._poll_records
            self._hand_over([message, *self._consumer.consume(most, 0)])
        if self.assignment.commits.refused:
            self.assignment.commits.repeat_refused(partitions)
        self.assignment.commits.make(self._consumer, partitions.values())
        self.assignment.look_at_topics(self._consumer)

    def _hand_over(self, messages: list[Message]) -> None:
        records: list[Record] = []
        now = time.monotonic()
        partitions = self.assignment.partitions
        partition: Partition | None = None
        for message in messages:
            error = message.error()
            if error is not None:
                if self._is_end(message, error):
                    continue
                self._send(records)
                records = []
                self._on_event(message, error)
                continue
            number = message.partition()
            if partition is None or number != partition.number or message.topic() != partition.topic:
                partition = partitions.get((message.topic(), number))  # type: ignore[arg-type]  # None only on an error
            if partition is None:
                continue  # revoked between its arrival and now
            offset: int = message.offset()  # type: ignore[assignment]
            if offset < partition.expected:
                partition = self.assignment.replaced(partition)
            partition.expected = offset + 1
            record = Record(message, partition, offset, now)
            partition.arrived += 1
            partition.arrived_bytes += record.size
            records.append(record)
        self._send(records)

    def _send(self, records: list[Record]) -> None:
        if records:
            self.trouble = None
            self._loop.call_soon_threadsafe(self._pump.accept, records)

    def _is_end(self, message: Message, error: KafkaError) -> bool:
        """Whether it says no more than that the records before it are the last for now. Under load there are as many of these as records;
        if each were handed over, it would cut what has arrived together into small requests."""
        if error.code() != KafkaError._PARTITION_EOF:
            return False
        partition = self.assignment.partitions.get((message.topic(), message.partition()))  # type: ignore[arg-type]  # an EOF has both
        offset: int = message.offset()  # type: ignore[assignment]
        if partition is None or offset > partition.expected:
            return False
        partition.high = offset
        self.trouble = None
        return True

    def _on_event(self, message: Message, error: KafkaError) -> None:
        topic, number, offset = message.topic(), message.partition(), message.offset()
        if error.code() == KafkaError._PARTITION_EOF and topic is not None and number is not None and offset is not None:
            partition = self.assignment.partitions.get((topic, number))
            if partition is not None:
                partition.high = offset
                self._loop.call_soon_threadsafe(partition.reached, offset)
            self.trouble = None
            return
        if error.fatal():
            raise KafkaException(error)
        text = f"{topic or ''} {error.str()}".strip()
        if text != self.trouble:
            log.warning("Kafka: %s", text, extra={"source": self._source.name})
        self.trouble = text

    def _flow(self) -> None:
        """Fetch no more of a partition than may lie ahead of its committed offset, and nothing while the pump wants nothing."""
        partitions = list(self.assignment.partitions.values())
        if self._pump.wants_pause:
            self._pause([p for p in partitions if not p.paused])
            return
        until = time.monotonic() + ROOM_WAIT_S
        while ((full := self._full(partitions)) or self._crowded(partitions)) and time.monotonic() < until:
            self.assignment.commits.make(self._consumer, partitions)
            self._ended.wait(0.004)
        # A function that is much slower than its topic would else have all of it in our memory that records_ahead_max allows. Kafka's
        # client begins with the same partition after each pause. So what has brought nothing since then stays open until it has, or the
        # last ones would never have their turn.
        self._pause([p for p in partitions if not p.paused and p.had_its_turn] if self._pump.overcrowded else full)
        room = [p for p in partitions if p.paused and not p.full(max(1, self._ahead_max // 2))]
        if room and self._pump.roomy:
            self._consumer.resume([TopicPartition(p.topic, p.number) for p in room])
            for partition in room:
                partition.paused = False
            for partition in partitions:
                partition.begin_turn()

    def _crowded(self, partitions: list[Partition]) -> bool:
        return self._pump.crowded and not all(p.paused for p in partitions)

    def _full(self, partitions: list[Partition]) -> list[Partition]:
        return [p for p in partitions if not p.paused and p.full(self._ahead_max)]

    def _pause(self, chosen: list[Partition]) -> None:
        if chosen:
            self._consumer.pause([TopicPartition(p.topic, p.number) for p in chosen])
            for partition in chosen:
                partition.paused = True
