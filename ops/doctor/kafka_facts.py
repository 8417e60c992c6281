"""Facts from Kafka. Nothing is written, except by `clocks`, which has to be asked for."""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicCollection, TopicPartition, admin

from ops import topics_admin
from ops.dlq import archiver
from ops.doctor.facts import EXPIRING, Clock, Facts, LiveTopic, Place, Reach
from shared import broker, errors
from shared.config import Settings
from shared.topics import Catalogue

_EARLIEST: Any = admin.OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # published without types
_LATEST: Any = admin.OffsetSpec.latest()  # type: ignore[no-untyped-call]  # published without types
_NEWEST: Any = admin.OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]  # published without types
_DAY_S = 86_400.0
LOOK_S = 5.0
ELECTION_S = 5
_ELECTION = frozenset({"not_leader_for_partition", "leader_not_available", "fenced_leader_epoch", "unknown_leader_epoch"})
_FIELDS = ("brokers", "broker_settings", "live", "groups")


def with_kafka(facts: Facts, settings: Settings, catalogue: Catalogue, *, prod: bool | None) -> Facts:
    """`facts`, and what the brokers say. Production is where more than one broker answers, unless `prod` says. Never raises."""
    try:
        eyes = Eyes(settings)
        found = facts.with_(brokers=eyes.there())
    except errors.OrderflowError as exc:
        fields = [*_FIELDS, *(["archive"] if settings.dlq_archive_bucket else []), *(["prod"] if prod is None else [])]
        return facts.with_(prod=prod, left=dict(facts.left) | dict.fromkeys(fields, exc.detail))
    found = found.with_(prod=(found.brokers or 0) > 1 if prod is None else prod)
    names = [topic.name for topic in catalogue.all()]
    found = _and(found, "broker_settings", eyes.broker_settings)
    found = _and(found, "live", lambda: eyes.topics(names))
    if found.live is None:
        return found.with_(left=dict(found.left) | {"groups": found.left["live"]})
    live, at_s = found.live, time.time()
    read = {consumer.group: topic.name for topic, consumer in catalogue.consumers()}
    found = _and(found, "groups", lambda: {group: eyes.reach(group, [live[name]], at_s) for group, name in read.items() if name in live})
    if settings.dlq_archive_bucket:
        group = settings.override(archiver.GROUP_SETTING, archiver.GROUP)
        letters = [live[topic.name] for topic in catalogue.dead_letter_topics if topic.name in live]
        found = _and(found, "archive", lambda: eyes.reach(group, letters, at_s, older_s=_DAY_S, all_of_it=True))
    return found


def clocks(settings: Settings) -> list[Clock]:
    """Each broker's clock, by a record that it stamps: in a topic of its own, which is deleted again. Raises Unavailable, Refused."""
    eyes = Eyes(settings)
    name = f"orderflow-doctor-{uuid.uuid4().hex[:12]}"
    eyes.make(name, partitions=eyes.broker_count())
    try:
        leads = {part.number: part.leader for part in eyes.topics([name])[name].partitions}
        return [_clock(settings, name, number, leader) for number, leader in leads.items() if leader is not None]
    finally:
        eyes.delete([name])


class Eyes(topics_admin.Admin):
    """An admin connection that looks at what doctor asks for. Raises Unavailable when brokers do not answer, Refused when they say no."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._settings = settings

    def there(self) -> int:
        """How many brokers answer. Who is away is not waited for as long as an answer may take."""
        try:
            return len(self._client.list_topics(timeout=LOOK_S).brokers)
        except KafkaException as exc:
            self._client.poll(0)
            raise self._translated(exc) from exc

    def broker_settings(self) -> dict[str, dict[str, str]]:
        """The settings of each broker, by its id."""
        resources = [admin.ConfigResource(admin.ResourceType.BROKER, str(number)) for number in self._metadata().brokers]
        answers = self._client.describe_configs(resources, request_timeout=topics_admin.ANSWER_S)
        return {of.name: {key: str(entry.value) for key, entry in self._answer(future).items()} for of, future in answers.items()}

    def topics(self, names: Iterable[str]) -> dict[str, LiveTopic]:
        """Those of `names` that are there."""
        there = self.partitions(internal=True)
        wanted = [name for name in names if name in there]
        if not wanted:
            return {}
        described = self._client.describe_topics(TopicCollection(wanted), request_timeout=topics_admin.ANSWER_S)
        found = {name: self._answer(future).partitions for name, future in described.items()}
        parts = [(name, part.id) for name, of in found.items() for part in of if part.leader]
        first, end, newest = (self._asked(parts, spec) for spec in (_EARLIEST, _LATEST, _NEWEST))
        configs = self._configs(wanted)
        return {
            name: LiveTopic(
                name,
                tuple(
                    topics_admin.Partition(
                        number=part.id,
                        leader=part.leader.id if part.leader else None,
                        replicas=tuple(node.id for node in part.replicas),
                        in_sync=tuple(node.id for node in part.isr),
                        first_offset=first[name, part.id].offset if (name, part.id) in first else 0,
                        next_offset=end[name, part.id].offset if (name, part.id) in end else 0,
                    )
                    for part in sorted(found[name], key=lambda part: part.id)
                ),
                configs[name],
                max((at.timestamp / 1000 for (of, _), at in newest.items() if of == name and at.timestamp > 0), default=None),
            )
            for name in wanted
        }

    def reach(
        self, group: str, topics: Iterable[LiveTopic], at_s: float, *, older_s: float | None = None, all_of_it: bool = False
    ) -> dict[Place, Reach]:
        """How far `group` has come. `older_s`: what counts as about to expire, else most of the topic's retention.

        `all_of_it`: a partition in which it has no place yet stands at its beginning.
        """
        topics = list(topics)
        committed = self._committed(group, [(topic.name, part.number) for topic in topics for part in topic.partitions])
        found: dict[Place, Reach] = {}
        for topic in topics:
            parts = {(topic.name, part.number): part for part in topic.partitions if part.leader is not None}
            kept_s = int(topic.config.get("retention.ms", -1)) / 1000
            since_s = at_s - (EXPIRING * kept_s if older_s is None else older_s)
            fresh: Mapping[Place, Any] = {}
            if kept_s >= 0 or older_s is not None:
                fresh = self._asked(parts, admin.OffsetSpec.for_timestamp(int(since_s * 1000)))
            for place, part in parts.items():
                at = committed.get(place, part.first_offset if all_of_it else None)
                if at is not None:
                    since = fresh[place].offset if place in fresh else 0
                    found[place] = Reach(at, part.first_offset, part.next_offset, part.next_offset if since < 0 else since)
        return found

    def make(self, name: str, *, partitions: int) -> None:
        """A topic whose records bear the brokers' own time."""
        new = admin.NewTopic(name, partitions, 1, config={"message.timestamp.type": "LogAppendTime", "retention.ms": "60000"})
        self._answer(self._client.create_topics([new], operation_timeout=topics_admin.ANSWER_S)[name])
        self._wait(lambda: name in self.partitions(internal=True), f"{name} to appear")

    def _committed(self, group: str, places: Sequence[Place]) -> dict[Place, int]:
        """Where `group` stands, asked by a consumer that joins nothing: the admin client dies of an answer that names no coordinator."""
        if not places:
            return {}
        consumer = Consumer(broker.client(self._settings, "orderflow-doctor") | {"group.id": group, "enable.auto.commit": False})
        try:
            found = consumer.committed([TopicPartition(*place) for place in places], timeout=topics_admin.ANSWER_S)
        except KafkaException as exc:
            raise self._translated(exc) from exc
        finally:
            consumer.close()
        return {(part.topic, part.partition): part.offset for part in found if part.offset >= 0}

    def _asked(self, places: Iterable[Place], spec: Any) -> dict[Place, Any]:
        wanted = {TopicPartition(*place): spec for place in places}
        answers = self._client.list_offsets(wanted, request_timeout=topics_admin.ANSWER_S) if wanted else {}
        return {(part.topic, part.partition): self._answer(future) for part, future in answers.items()}


def _and(facts: Facts, field: str, look: Callable[[], object]) -> Facts:
    """`facts` and what `look` finds, or why it finds nothing. Where a partition has just got a leader, brokers agree after a moment."""
    for _ in range(ELECTION_S):
        try:
            return facts.with_(**{field: look()})
        except errors.OrderflowError as exc:
            left = facts.with_(left=dict(facts.left) | {field: exc.detail})
            if exc.code not in _ELECTION:
                break
        time.sleep(1)
    return left


def _clock(settings: Settings, topic: str, partition: int, leader: int) -> Clock:
    """The second of two records is measured: the first pays for the connection."""
    stamped: list[float] = []

    def reported(error: Any, message: Message) -> None:
        if error is None:
            stamped.append(message.timestamp()[1] / 1000)

    producer = Producer(
        broker.producer(settings, "orderflow-doctor", delivery_timeout_s=10, message_bytes_max=1_000_000, **{"linger.ms": 0})
    )
    before = after = 0.0
    try:
        for _ in range(2):
            before = time.time()
            producer.produce(topic, b"", partition=partition, on_delivery=reported)
            producer.flush(15)
            after = time.time()
    except KafkaException as exc:
        raise topics_admin.translated(exc.args[0], settings.kafka_brokers) from exc
    if len(stamped) < 2:
        raise errors.Unavailable(f"broker {leader} confirmed no record")
    return Clock(f"broker {leader}", stamped[-1] - (before + after) / 2, (after - before) / 2)
