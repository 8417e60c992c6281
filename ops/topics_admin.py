"""Topics as the broker has them, beside topics as contracts/topics.yaml wants them."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition, admin

from ops import declared
from shared import broker, errors, topics
from shared.config import Settings

T = TypeVar("T")
ANSWER_S = 10.0
_INTERNAL = ("__",)
_URL_SAFE = str.maketrans("+/", "-_")
_EARLIEST: Any = admin.OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # published without types
_SET_ON_TOPIC = admin.ConfigSource.DYNAMIC_TOPIC_CONFIG.value
_LATEST: Any = admin.OffsetSpec.latest()  # type: ignore[no-untyped-call]  # published without types


@dataclass(frozen=True, slots=True)
class Made:
    """What `create` did with one topic, and what it found to be unlike the declaration."""

    topic: str
    action: Literal["created", "unchanged", "grown", "changed", "differs"]
    partitions: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: who leads it, who holds it, what it holds."""

    number: int
    leader: int | None
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]
    first_offset: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class Description:
    """One topic as the broker has it. `config` holds what was set on the topic itself."""

    topic: str
    topic_id: str
    partitions: tuple[Partition, ...]
    config: Mapping[str, str]


class Admin:
    """A connection to the brokers for work on topics. Raises Unavailable when they do not answer, Refused when they say no."""

    def __init__(self, settings: Settings) -> None:
        self._brokers = settings.kafka_brokers
        self._client = admin.AdminClient(broker.client(settings, "orderflow-topics"))

    def broker_count(self) -> int:
        """How many brokers answer for the cluster."""
        return len(self._metadata().brokers)

    def partitions(self, *, internal: bool = False) -> dict[str, tuple[int, int]]:
        """Every topic with its number of partitions and of replicas."""
        return {
            name: (len(topic.partitions), max((len(part.replicas) for part in topic.partitions.values()), default=0))
            for name, topic in sorted(self._metadata().topics.items())
            if internal or not name.startswith(_INTERNAL)
        }

    def create(self, wanted: Sequence[topics.Topic], *, local: bool = False, apply: bool = False) -> list[Made]:
        """Create what is missing, add partitions where there are fewer than wanted, and report every other difference.

        With `local`, or where there is one broker, replication is limited to the number of brokers. With `apply`, differing settings
        are changed. A topic never loses partitions.
        """
        brokers = self.broker_count()
        possible = [declared.fitted(topic, brokers, local=local) for topic in wanted]
        there = self.partitions(internal=True)
        missing = {topic.name for topic in possible if topic.name not in there}
        new = [
            admin.NewTopic(topic.name, topic.partitions, topic.replication_factor, config=declared.config(topic))
            for topic in possible
            if topic.name in missing
        ]
        if new:
            for future in self._client.create_topics(new, operation_timeout=ANSWER_S).values():
                self._answer(future, allowed=KafkaError.TOPIC_ALREADY_EXISTS)
            self._wait(lambda: missing <= self.partitions(internal=True).keys(), f"{', '.join(sorted(missing))} to appear")
        found = self._configs(topic.name for topic in possible if topic.name not in missing)
        return [
            Made(topic.name, "created", topic.partitions, declared.reduced(topic, before))
            if topic.name in missing
            else self._compared(topic, *there[topic.name], found[topic.name], apply=apply)
            for topic, before in zip(possible, wanted, strict=True)
        ]

    def delete(self, names: Sequence[str]) -> None:
        """Delete the topics and all their records, and wait until they are gone."""
        self.known(names)
        for future in self._client.delete_topics(list(names), operation_timeout=ANSWER_S).values():
            self._answer(future, allowed=KafkaError.UNKNOWN_TOPIC_OR_PART)
        self._wait(lambda: not set(names) & self.partitions(internal=True).keys(), f"{', '.join(names)} to be gone")

    def describe(self, name: str) -> Description:
        """One topic in full."""
        self.known([name])
        described = self._answer(self._client.describe_topics(TopicCollection([name]), request_timeout=ANSWER_S)[name])
        parts = [TopicPartition(name, part.id) for part in described.partitions]
        first, last = (self._offsets(parts, spec) for spec in (_EARLIEST, _LATEST))
        return Description(
            topic=name,
            topic_id=str(described.topic_id).translate(_URL_SAFE),  # as the broker and its tools spell it
            partitions=tuple(
                Partition(
                    number=part.id,
                    leader=part.leader.id if part.leader else None,
                    replicas=tuple(node.id for node in part.replicas),
                    in_sync=tuple(node.id for node in part.isr),
                    first_offset=first[part.id],
                    next_offset=last[part.id],
                )
                for part in sorted(described.partitions, key=lambda part: part.id)
            ),
            config=self._configs([name], own=True)[name],
        )

    def topic_ids(self, names: Iterable[str]) -> dict[str, str]:
        """The id of each topic that is there: another one once a topic was deleted and created again."""
        there = [name for name in names if name in self.partitions(internal=True)]
        futures = self._client.describe_topics(TopicCollection(there), request_timeout=ANSWER_S) if there else {}
        return {name: str(self._answer(future).topic_id).translate(_URL_SAFE) for name, future in futures.items()}

    def ends(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The end of each of these partitions, asked for at once."""
        wanted = {TopicPartition(*place): _LATEST for place in places}
        answers = self._client.list_offsets(wanted, request_timeout=ANSWER_S) if wanted else {}
        return {(part.topic, part.partition): self._answer(future).offset for part, future in answers.items()}

    def known(self, names: Iterable[str]) -> None:
        """Raise Refused unless every topic of `names` is there."""
        unknown = sorted(set(names) - self.partitions(internal=True).keys())
        if unknown:
            raise errors.Refused(
                f"there is no topic {', '.join(unknown)} at {self._brokers} (`orderflow topics list` shows all)", code="unknown_topic"
            )

    def _compared(self, wanted: topics.Topic, partitions: int, replicas: int, config: Mapping[str, str], *, apply: bool) -> Made:
        action: Literal["unchanged", "grown", "changed", "differs"] = "unchanged"
        wrong, notes = declared.unlike(wanted, config), declared.differences(wanted, partitions, replicas, config)
        if notes:
            action = "differs"
        if apply and wrong:
            self._alter(wanted.name, wrong)
            notes.append("settings changed as declared")
            action = "changed"
        if partitions < wanted.partitions:
            new = admin.NewPartitions(wanted.name, wanted.partitions)
            self._answer(self._client.create_partitions([new], operation_timeout=ANSWER_S)[wanted.name])
            notes.append(
                f"grown from {partitions} to {wanted.partitions} partitions: keys change partition, order per key holds again from lag 0 on"
            )
            action = "grown"
        return Made(wanted.name, action, max(partitions, wanted.partitions), tuple(notes))

    def _alter(self, name: str, config: Mapping[str, str]) -> None:
        entries = [admin.ConfigEntry(key, value, incremental_operation=admin.AlterConfigOpType.SET) for key, value in config.items()]
        resource = admin.ConfigResource(admin.ResourceType.TOPIC, name, incremental_configs=entries)
        for future in self._client.incremental_alter_configs([resource], request_timeout=ANSWER_S).values():
            self._answer(future)

    def _configs(self, names: Iterable[str], *, own: bool = False) -> dict[str, dict[str, str]]:
        resources = [admin.ConfigResource(admin.ResourceType.TOPIC, name) for name in names]
        if not resources:
            return {}
        answers = self._client.describe_configs(resources, request_timeout=ANSWER_S)
        return {
            resource.name: {
                key: str(entry.value) for key, entry in self._answer(future).items() if not own or entry.source == _SET_ON_TOPIC
            }
            for resource, future in answers.items()
        }

    def _offsets(self, parts: Sequence[TopicPartition], spec: Any) -> dict[int, int]:
        answers = self._client.list_offsets(dict.fromkeys(parts, spec), request_timeout=ANSWER_S)
        return {part.partition: self._answer(future).offset for part, future in answers.items()}

    def _metadata(self) -> Any:
        try:
            return self._client.list_topics(timeout=ANSWER_S)
        except KafkaException as exc:
            self._client.poll(0)  # only so does it tell of a wrong password or certificate
            raise self._translated(exc) from exc

    def _answer(self, future: "Future[T]", *, allowed: int | None = None) -> T:
        try:
            return future.result(timeout=2 * ANSWER_S)
        except KafkaException as exc:
            if allowed is not None and exc.args[0].code() == allowed:
                return None  # type: ignore[return-value]  # these calls answer with nothing
            raise self._translated(exc) from exc
        except TimeoutError as exc:
            raise errors.Unavailable(f"Kafka at {self._brokers} gave no answer") from exc

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 2 * ANSWER_S
        while not done():
            if time.monotonic() > deadline:
                raise errors.Unavailable(f"Kafka at {self._brokers}: waited {2 * ANSWER_S:.0f} s for {what}")
            time.sleep(0.05)

    def _translated(self, exc: KafkaException) -> errors.OrderflowError:
        return translated(exc.args[0], self._brokers)


def translated(error: Any, brokers: str) -> errors.OrderflowError:
    """A KafkaError as ours: Unavailable where trying later helps, else Refused."""
    if error.retriable() or error.code() in (
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._MSG_TIMED_OUT,
    ):
        return errors.Unavailable(f"Kafka at {brokers} does not answer: {error.str()}")
    return errors.Refused(f"Kafka at {brokers} refused: {error.str()} ({error.name()})", code=str(error.name()).lower())
