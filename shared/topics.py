"""contracts/topics.yaml as frozen values: every topic, who reads it, and where what fails goes."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared import errors
from shared.config import Settings

PATH = Path(__file__).resolve().parent.parent / "contracts" / "topics.yaml"

Name = Annotated[str, Field(min_length=1, max_length=249, pattern=r"^[a-zA-Z0-9._-]+$")]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Consumer(_Row):
    """One consumer group of a topic, and the function that handles its events."""

    group: Name
    setting: str
    source: Name
    function: Name
    inbox: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*_inbox_events$")]
    dead_letter_topic: Name
    effect: Literal["inside", "outside"] = "inside"  # the database

    @property
    def role(self) -> str:
        """What its role, its DSN and its retry settings are named after: order, assembly, notification, …"""
        return self.inbox.removesuffix("_inbox_events")

    @property
    def login(self) -> str:
        """The role that it logs in with."""
        return f"orderflow_{self.role}"

    @property
    def leased(self) -> bool:
        """Whether its inbox holds leases: where the effect is not part of the transaction that claims the event."""
        return self.effect == "outside"


class Topic(_Row):
    """One topic as it is to be created. `config` holds Kafka's own topic settings."""

    name: Name
    setting: str
    event: str | None = None
    key: str | None = None
    partitions: Annotated[int, Field(ge=1)]
    replication_factor: Annotated[int, Field(ge=1)]
    min_insync_replicas: Annotated[int, Field(ge=1)]
    config: dict[str, str]
    consumers: tuple[Consumer, ...] = ()


class Catalogue(_Row):
    """The whole file."""

    topics: tuple[Topic, ...]
    dead_letter_topics: tuple[Topic, ...]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        sources = {topic.name for topic in self.topics}
        letters = {topic.name for topic in self.dead_letter_topics}
        if sources & letters:
            raise ValueError(
                f"{', '.join(sorted(sources & letters))}: a dead-letter topic cannot be a source topic too: letters would be events again"
            )
        for _, consumer in self.consumers():
            if consumer.dead_letter_topic not in letters:
                raise ValueError(
                    f"{consumer.group}: dead_letter_topic {consumer.dead_letter_topic} is not declared under dead_letter_topics"
                )
        groups = [consumer.group for _, consumer in self.consumers()]
        if len(groups) != len(set(groups)):
            raise ValueError("a consumer group is declared twice")
        return self

    def all(self) -> tuple[Topic, ...]:
        """Every topic to be created, dead-letter topics last."""
        return self.topics + self.dead_letter_topics

    def consumers(self) -> Iterator[tuple[Topic, Consumer]]:
        """Every consumer with its topic."""
        return ((topic, consumer) for topic in self.topics for consumer in topic.consumers)

    def consumer(self, group: str, topic: str) -> Consumer | None:
        """The consumer `group` of `topic`, or None."""
        return next((consumer for of, consumer in self.consumers() if consumer.group == group and of.name == topic), None)

    def by_source(self, source: str) -> tuple[Topic, Consumer] | None:
        """The consumer that the KafkaSource `source` feeds, or None."""
        return next(((topic, consumer) for topic, consumer in self.consumers() if consumer.source == source), None)


def read(path: Path = PATH) -> Catalogue:
    """The file at `path`, defaults filled in, names as the file has them. Raises ConfigError."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        defaults = raw["defaults"]
        return Catalogue(
            topics=tuple(_filled(row, defaults) for row in raw["topics"]),
            dead_letter_topics=tuple(_filled(row, defaults) for row in raw["dead_letter_topics"]),
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError) as exc:
        raise errors.ConfigError([f"{path}: {exc}"]) from exc
    except ValidationError as exc:
        raise errors.ConfigError([f"{path.name}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in exc.errors()]) from exc


def catalogue(settings: Settings) -> Catalogue:
    """The file with the names that the environment overrides. Raises ConfigError."""
    return _named(read(), settings)


def _named(declared: Catalogue, settings: Settings) -> Catalogue:
    name = functools.partial(_override, settings)
    letters = {topic.name: name(topic.setting, topic.name) for topic in declared.dead_letter_topics}

    def renamed(topic: Topic) -> Topic:
        consumers = tuple(
            consumer.model_copy(
                update={"group": name(consumer.setting, consumer.group), "dead_letter_topic": letters[consumer.dead_letter_topic]}
            )
            for consumer in topic.consumers
        )
        return topic.model_copy(update={"name": name(topic.setting, topic.name), "consumers": consumers})

    try:
        return Catalogue(topics=tuple(map(renamed, declared.topics)), dead_letter_topics=tuple(map(renamed, declared.dead_letter_topics)))
    except ValidationError as exc:
        raise errors.ConfigError([fault["msg"].removeprefix("Value error, ") for fault in exc.errors()]) from exc


def _override(settings: Settings, setting: str, default: str) -> str:
    return settings.override(setting, default)


def _filled(row: dict[str, object], defaults: dict[str, object]) -> Topic:
    base, own = defaults["config"], row.get("config") or {}
    if not isinstance(base, dict) or not isinstance(own, dict):
        raise errors.ConfigError(["topics.yaml: config must be a map of Kafka's topic settings"])
    merged = {str(key): str(value) for key, value in (base | own).items()}
    return Topic.model_validate(defaults | row | {"config": merged})
