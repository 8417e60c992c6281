"""Which partitions of the dead-letter topics are this archiver's, where each begins, and what was read of it and is not in S3 yet."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from ops import topics_admin
from ops.dlq.archive_batch import Batch
from shared import errors
from shared.config import Settings

log = logging.getLogger(__name__)

ANSWER_S = 10.0
AGAIN_S, GIVE_UP_S = 0.5, 30.0
LOOK_S = 10.0  # how often a topic is asked whether it is still the same one
_TOPIC_ID = "topic-id="


class Places:
    """The partitions that are assigned to this process. Used by the thread that polls."""

    def __init__(self, settings: Settings, topics: Collection[str], stopping: threading.Event) -> None:
        self.known = False  # whether the group has given us anything yet, be it nothing
        self.patient = False  # whether Kafka may take as long as it likes to say where to begin
        self.paused = False  # whether what is assigned is to be read no further
        self._admin = topics_admin.Admin(settings)
        self._brokers, self._topics, self._stopping = settings.kafka_brokers, list(topics), stopping
        self._batches: dict[tuple[str, int], Batch] = {}
        self._ends: dict[tuple[str, int], int] = {}
        self._looked_at = time.monotonic()

    def batches(self) -> list[Batch]:
        """One for each partition."""
        return list(self._batches.values())

    def at(self, topic: str, partition: int, offset: int) -> Batch | None:
        """The batch that a record belongs to, or None when its partition has been taken from us."""
        batch = self._batches.get((topic, partition))
        return self._begin_again(batch) if batch is not None and offset < batch.next_offset else batch

    def reached(self, topic: str, partition: int) -> None:
        """Everything of the partition has come; what is left to its end are gaps."""
        batch = self._batches.get((topic, partition))
        if batch is not None:
            self._ends[topic, partition] = min(self._ends[topic, partition], batch.next_offset)

    def left(self) -> int:
        """How many letters are still to come, of those that were there when the partitions became ours."""
        return sum(max(0, end - self._batches[place].next_offset) for place, end in self._ends.items())

    def behind(self, consumer: Consumer) -> dict[str, int]:
        """How many letters of each topic are not in S3, as far as is known."""
        found = dict.fromkeys(self._topics, 0)
        for (topic, number), batch in self._batches.items():
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)
            found[topic] += max(0, high - max(low, batch.next_offset)) + batch.letters
        return found

    def pause(self, consumer: Consumer, wanted: bool) -> None:
        """Read no further, or go on."""
        if wanted != self.paused:
            (consumer.pause if wanted else consumer.resume)(consumer.assignment())
        self.paused = wanted

    def on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        """These are ours from now on."""
        if assigned:
            ids = self._ids()
            starts = [self._start(tp, ids.get(tp.topic, "")) for tp in self._asked(lambda: consumer.committed(assigned, timeout=ANSWER_S))]
            self._ends |= self._asked(lambda: self._admin.ends((tp.topic, tp.partition) for tp in assigned))
            consumer.incremental_assign(starts)
            if self.paused:
                consumer.pause(starts)
        self.known = True

    def on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        """These are not ours any more. What was not committed is read again by whoever has them now."""
        for tp in revoked:
            self._batches.pop((tp.topic, tp.partition), None)
            self._ends.pop((tp.topic, tp.partition), None)
        consumer.incremental_unassign(revoked)

    def look_at_topics(self, consumer: Consumer) -> None:
        """Read a topic that was created again from its beginning."""
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        ids = self._ids()
        for batch in self.batches():
            if not batch.topic_id or ids.get(batch.topic, batch.topic_id) == batch.topic_id:
                continue
            self._begin_again(batch)
            place = TopicPartition(batch.topic, batch.partition, OFFSET_BEGINNING)
            consumer.incremental_unassign([place])
            consumer.incremental_assign([place])
            if self.paused:
                consumer.pause([place])

    def _start(self, tp: TopicPartition, topic_id: str) -> TopicPartition:
        text = tp.metadata or ""
        before = text.removeprefix(_TOPIC_ID) if text.startswith(_TOPIC_ID) else ""
        same = tp.offset >= 0 and (not before or not topic_id or before == topic_id)
        if tp.offset >= 0 and not same:
            log.warning("the topic was created again: it is read from its beginning", extra={"topic": tp.topic, "partition": tp.partition})
        self._batches[tp.topic, tp.partition] = Batch(tp.topic, tp.partition, tp.offset if same else 0, topic_id or before)
        return TopicPartition(tp.topic, tp.partition, tp.offset if same else OFFSET_BEGINNING)

    def _begin_again(self, batch: Batch) -> Batch:
        log.warning("offsets begin again: the topic was created again", extra={"topic": batch.topic, "partition": batch.partition})
        fresh = Batch(batch.topic, batch.partition, 0, self._ids().get(batch.topic, ""))
        self._batches[batch.topic, batch.partition] = fresh
        return fresh

    def _ids(self) -> dict[str, str]:
        try:
            return self._admin.topic_ids(self._topics)
        except errors.OrderflowError as exc:
            log.warning("the ids of the topics are not known", extra={"reason": exc.detail})
            return {}

    def _asked(self, question: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + (math.inf if self.patient else GIVE_UP_S)
        while True:
            try:
                return question()
            except (KafkaException, errors.Unavailable) as exc:
                error = exc if isinstance(exc, errors.Unavailable) else topics_admin.translated(exc.args[0], self._brokers)
                if self._stopping.is_set() or time.monotonic() > deadline or not isinstance(error, errors.Unavailable):
                    raise error from exc
                log.warning("Kafka does not say where to begin", extra={"reason": error.detail})
                self._stopping.wait(AGAIN_S)


def place(batch: Batch) -> TopicPartition:
    """What is to be committed once the batch is in S3: its end, and of which topic, for one that is created again has the same name."""
    return TopicPartition(batch.topic, batch.partition, batch.next_offset, f"{_TOPIC_ID}{batch.topic_id}")
