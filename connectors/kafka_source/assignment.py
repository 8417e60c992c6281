"""Which partitions are ours, and where each begins. Every method runs in the consumer's thread."""

import asyncio
import concurrent.futures
import logging

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from connectors.kafka_source import commits, metrics
from connectors.kafka_source.partition import Partition
from connectors.kafka_source.plan import Source
from connectors.kafka_source.pump import Pump
from connectors.kafka_source.topic_watch import TopicWatch

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 10.0
_BEGINNING = -1


class Assignment:
    """The partitions that are assigned to this process."""

    def __init__(self, source: Source, pump: Pump, loop: asyncio.AbstractEventLoop, watch: TopicWatch, shutdown_timeout_s: float) -> None:
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.known = False  # whether the group has given us anything yet, be it nothing
        self.commits = commits.Commits(source)
        self._source = source
        self._pump = pump
        self._loop = loop
        self._watch = watch
        self._wait_s = shutdown_timeout_s

    def on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        """These are ours from now on."""
        if assigned:
            ids = self._watch.ids_now()
            starts = [self._start(consumer, tp, ids.get(tp.topic)) for tp in self._committed(consumer, assigned)]
            consumer.incremental_assign(starts)
            # Kafka's client remembers that a partition was paused when it was taken from us, and would never fetch it again.
            consumer.resume(starts)
        self._tell("partitions assigned")
        self.known = True

    def on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        """No new deliveries; those in flight end (heartbeats go on meanwhile); commit; let go."""
        closing = self._close(revoked)
        waiting = asyncio.run_coroutine_threadsafe(self._pump.release(self._wait_s), self._loop)
        try:
            waiting.result(self._wait_s + 2)
        except concurrent.futures.TimeoutError:
            waiting.cancel()
        self.commits.make(consumer, closing, sync=True)
        self._forget(closing)
        consumer.incremental_unassign(revoked)
        self._tell("partitions revoked")

    def on_lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        """They are another's already: nothing is committed."""
        self._forget(self._close(lost))
        consumer.incremental_unassign(lost)
        self._tell("partitions lost, nothing of them is committed")

    def look_at_topics(self, consumer: Consumer) -> None:
        """Read a topic that was created again from its beginning."""
        for topic, topic_id in self._watch.look(self.partitions.values()).items():
            for partition in [p for p in self.partitions.values() if p.topic == topic and p.topic_id != topic_id]:
                if partition.topic_id is None:
                    partition.topic_id = topic_id
                else:
                    self._begin_again(consumer, partition, topic_id)

    def replaced(self, partition: Partition) -> Partition:
        """The same partition, whose offsets have begun again: what is in flight of the old one no longer counts."""
        log.warning(
            "offsets begin again: the topic was created again",
            extra={"source": self._source.name, "topic": partition.topic, "partition": partition.number},
        )
        metrics.restarts.labels(self._source.name).inc()
        partition.closed = True
        fresh = Partition(partition.topic, partition.number, _BEGINNING, None)
        self.partitions[partition.topic, partition.number] = fresh
        return fresh

    def _begin_again(self, consumer: Consumer, partition: Partition, topic_id: str) -> None:
        self.replaced(partition).topic_id = topic_id
        tp = TopicPartition(partition.topic, partition.number, OFFSET_BEGINNING)
        consumer.incremental_unassign([tp])
        consumer.incremental_assign([tp])
        consumer.resume([tp])

    def _committed(self, consumer: Consumer, assigned: list[TopicPartition]) -> list[TopicPartition]:
        while True:
            try:
                return consumer.committed(assigned, timeout=ANSWER_TIMEOUT_S)
            except KafkaException as exc:
                log.warning("committed offsets cannot be read yet", extra={"source": self._source.name, "reason": str(exc)})
                if not exc.args[0].retriable() and exc.args[0].code() not in {exc.args[0]._TIMED_OUT, exc.args[0]._TRANSPORT}:
                    raise

    def _start(self, consumer: Consumer, tp: TopicPartition, topic_id: str | None) -> TopicPartition:
        before = commits.topic_id(tp)
        if tp.offset >= 0 and (before is None or topic_id is None or before == topic_id):
            offset = tp.offset
            self.partitions[tp.topic, tp.partition] = Partition(tp.topic, tp.partition, offset, before or topic_id)
            return TopicPartition(tp.topic, tp.partition, offset)
        if tp.offset >= 0:
            log.warning(
                "the topic was created again: it is read from its beginning",
                extra={"source": self._source.name, "topic": tp.topic, "partition": tp.partition},
            )
            metrics.restarts.labels(self._source.name).inc()
        elif not self._source.earliest:
            _, high = consumer.get_watermark_offsets(TopicPartition(tp.topic, tp.partition), timeout=ANSWER_TIMEOUT_S)
            partition = Partition(tp.topic, tp.partition, _BEGINNING, topic_id)
            partition.reached(high)  # committed soon, so that a restart does not skip what came in between
            self.partitions[tp.topic, tp.partition] = partition
            return TopicPartition(tp.topic, tp.partition, high)
        self.partitions[tp.topic, tp.partition] = Partition(tp.topic, tp.partition, _BEGINNING, topic_id)
        return TopicPartition(tp.topic, tp.partition, OFFSET_BEGINNING)

    def _close(self, leaving: list[TopicPartition]) -> list[Partition]:
        closing = [p for tp in leaving if (p := self.partitions.get((tp.topic, tp.partition))) is not None]
        for partition in closing:
            partition.closed = True
        return closing

    def _forget(self, closing: list[Partition]) -> None:
        for partition in closing:
            self.partitions.pop((partition.topic, partition.number), None)

    def _tell(self, what: str) -> None:
        metrics.partitions.labels(self._source.name).set(len(self.partitions))
        ours = ",".join(f"{topic}/{number}" for topic, number in sorted(self.partitions))
        log.info(what, extra={"source": self._source.name, "ours": ours or "none"})
