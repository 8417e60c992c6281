"""Whether a topic is still the one it was, and where its partitions end; asked beside the polling, which never waits for it.

A topic that was deleted and created again has another topic id, and offsets that begin again: committed ones then mean nothing.
"""

import concurrent.futures
import logging
import time
from collections.abc import Collection
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition, Uuid
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.kafka_source.partition import Partition
from connectors.kafka_source.plan import Source
from shared import broker
from shared.config import Settings

log = logging.getLogger(__name__)

INTERVAL_S = 2.0
TIMEOUT_S = 10.0


class TopicWatch:
    """Topic ids and ends of partitions."""

    def __init__(self, source: Source, settings: Settings) -> None:
        self._topics = list(source.topics)
        self._admin = AdminClient(broker.client(settings, f"orderflow-{source.name}-watch"))
        self._asked_at = 0.0
        self._ids: dict[str, concurrent.futures.Future[Any]] = {}
        self._ends: dict[TopicPartition, concurrent.futures.Future[Any]] = {}

    def ids_now(self) -> dict[str, str]:
        """The topic ids, waited for; without those that could not be had in time."""
        return _ids(self._describe(), TIMEOUT_S)

    def look(self, partitions: Collection[Partition]) -> dict[str, str]:
        """The topic ids that have come in since the last look; sets `high` of `partitions`. Asks anew when it is time."""
        now = time.monotonic()
        found: dict[str, str] = {}
        if self._ids and all(future.done() for future in self._ids.values()):
            found, self._ids = _ids(self._ids, 0), {}
        if self._ends and all(future.done() for future in self._ends.values()):
            self._set_ends(partitions)
        if not self._ids and not self._ends and now - self._asked_at >= INTERVAL_S:
            self._asked_at = now
            self._ids = self._describe()
            if partitions:
                latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
                wanted = {TopicPartition(p.topic, p.number): latest for p in partitions}
                self._ends = self._admin.list_offsets(wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=TIMEOUT_S)
        return found

    def _describe(self) -> dict[str, concurrent.futures.Future[Any]]:
        return self._admin.describe_topics(TopicCollection(self._topics), request_timeout=TIMEOUT_S)

    def _set_ends(self, partitions: Collection[Partition]) -> None:
        ends = {}
        for tp, future in self._ends.items():
            try:
                ends[tp.topic, tp.partition] = future.result(0).offset
            except (KafkaException, concurrent.futures.TimeoutError):
                continue
        self._ends = {}
        for partition in partitions:
            end = ends.get((partition.topic, partition.number))
            if end is not None:
                partition.high = end


def _ids(futures: dict[str, concurrent.futures.Future[Any]], timeout_s: float) -> dict[str, str]:
    found = {}
    until = time.monotonic() + timeout_s
    for topic, future in futures.items():
        try:
            topic_id = future.result(max(0.0, until - time.monotonic())).topic_id
        except (KafkaException, concurrent.futures.TimeoutError) as exc:
            log.debug("the id of a topic is not known", extra={"topic": topic, "reason": str(exc)})
            continue
        if isinstance(topic_id, Uuid) and (text := _hex(topic_id)).strip("0"):  # an old broker has none: all zeros
            found[topic] = text
    return found


def _hex(topic_id: Any) -> str:
    mask = (1 << 64) - 1
    return f"{topic_id.get_most_significant_bits() & mask:016x}{topic_id.get_least_significant_bits() & mask:016x}"
