"""Commits: what is settled without a gap, and which topic (by its id) the offset belongs to."""

import logging
import time
from collections.abc import Collection

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka_source.partition import Mark, Partition
from connectors.kafka_source.plan import Source

log = logging.getLogger(__name__)

INTERVAL_S = 0.2
AGAIN_S = 1.0  # after Kafka refused a commit, as it does while a group rebalances
ANSWER_S = 10.0  # its client loses a commit now and then when a connection ends at that moment, and never tells
_METADATA = "topic-id="
_NOTHING = -1


class Commits:
    """The commits of one source; used by its consumer's thread only."""

    def __init__(self, source: Source, answer_s: float = ANSWER_S) -> None:
        self._source = source
        self._answer_s = answer_s
        self._unanswered: dict[tuple[str, int], tuple[int, float]] = {}  # offset, and since when
        self._last = 0.0
        self._moved_max = max(1, source.records_ahead_max // 4)
        self.refused: list[TopicPartition] = []
        self._not_before = 0.0

    def make(self, consumer: Consumer, partitions: Collection[Partition], *, sync: bool = False) -> None:
        """Commit what is due: at once where nothing is in flight, else a few times a second."""
        now = time.monotonic()
        self._give_up(now)
        if now < self._not_before and not sync:
            return
        late = now - self._last >= INTERVAL_S
        due = [(p, mark) for p in partitions if (mark := p.mark).offset > p.committed.offset and (sync or late or self._soon(p, mark))]
        if not due:
            return
        offsets = [TopicPartition(p.topic, p.number, mark.offset, f"{_METADATA}{p.topic_id or ''}") for p, mark in due]
        self._last = now
        try:
            if sync:
                consumer.commit(offsets=offsets, asynchronous=False)
            else:
                consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as exc:
            log.warning("offsets were not committed, their records may come again", extra={"source": self._source.name, "reason": str(exc)})
            return
        for partition, mark in due:
            partition.committed = mark
            if not sync:
                self._unanswered[partition.topic, partition.number] = (mark.offset, now)

    def on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Kafka's answer to an asynchronous commit."""
        for tp in offsets or ():
            if self._unanswered.get((tp.topic, tp.partition), (None, 0.0))[0] == tp.offset:
                del self._unanswered[tp.topic, tp.partition]
        refused = [tp for tp in offsets or () if error or tp.error]
        if refused:
            self.refused += refused
            self._not_before = time.monotonic() + AGAIN_S
            reason = str(error or refused[0].error)
            log.warning("offsets were not committed and will be once more", extra={"source": self._source.name, "reason": reason})

    def _give_up(self, now: float) -> None:
        """Wait no more for answers that would have come by now."""
        late = [place for place, (_, since) in self._unanswered.items() if now - since > self._answer_s]
        for place in late:
            del self._unanswered[place]
            self.refused.append(TopicPartition(*place))
        if late:
            log.warning("Kafka did not answer a commit, which is made once more", extra={"source": self._source.name})

    def repeat_refused(self, partitions: dict[tuple[str, int], Partition]) -> None:
        """Have what Kafka refused committed again."""
        refused, self.refused = self.refused, []
        for tp in refused:
            partition = partitions.get((tp.topic, tp.partition))
            if partition is not None:
                partition.committed = Mark(_NOTHING, partition.committed.settled)

    def _soon(self, partition: Partition, mark: Mark) -> bool:
        return partition.idle or mark.settled - partition.committed.settled >= self._moved_max


def topic_id(tp: TopicPartition) -> str | None:
    """The id of the topic for which `tp` was committed, if the one who committed it said so."""
    text = tp.metadata or ""
    return text.removeprefix(_METADATA) or None if text.startswith(_METADATA) else None
