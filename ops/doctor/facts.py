"""What doctor knows: plain values, gathered in one place. A field that is None could not be found out; `left` says why."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ops.topics_admin import Partition
from shared import topics
from shared.config import Settings

Place = tuple[str, int]  # topic and partition
EXPIRING = 0.75  # of a topic's retention: what is older is about to go


@dataclass(frozen=True, slots=True)
class LiveTopic:
    """A topic as the brokers have it, defaults of theirs filled in. `newest_at_s` is the time of its newest record, since the epoch."""

    name: str
    partitions: tuple[Partition, ...]
    config: Mapping[str, str]
    newest_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a group has come in one partition. `expiring` is the first offset that is not about to expire."""

    committed: int
    first: int
    end: int
    expiring: int


@dataclass(frozen=True, slots=True)
class Source:
    """One KafkaSource document as it was read; `knative` where Knative delivers, and not our own source."""

    name: str
    document: Mapping[str, Any]
    knative: bool
    origin: str

    def at(self, path: str) -> Any:
        """What stands at `path` of the document, such as spec.delivery.timeout; None where nothing does."""
        found: Any = self.document
        for part in path.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of one document: their environment, and how long the platform waits at their end."""

    name: str
    environment: Mapping[str, str]
    grace_s: float | None
    answer_s: float | None  # for a Knative Service: timeoutSeconds, after which Knative answers in its place


@dataclass(frozen=True, slots=True)
class OpenFaas:
    """The limits of infra/openfaas, in seconds, by the name of the setting and the file it is in; outermost first."""

    chain: tuple[tuple[str, float], ...]
    queue: bool
    from_zero: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A migration of this version. A contract step runs only when somebody asks for it."""

    revision: str
    contract: bool


@dataclass(frozen=True, slots=True)
class Index:
    """An index of a table."""

    table: str
    name: str
    columns: tuple[str, ...]
    unique: bool
    valid: bool


@dataclass(frozen=True, slots=True)
class Right:
    """A right that a role needs: on a column where one is named."""

    role: str
    table: str
    privilege: str
    column: str = ""


@dataclass(frozen=True, slots=True)
class Outbox:
    """Rows of the outbox that somebody should know of."""

    set_aside: int
    oldest_due_s: float


@dataclass(frozen=True, slots=True)
class Letters:
    """Open letters of a dead-letter topic, and the age of the oldest."""

    topic: str
    count: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Clock:
    """How far a clock is ahead of this machine's; the answer's way makes it uncertain by so much."""

    whose: str
    ahead_s: float
    within_s: float


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it. By the place of a database: host:port/database."""

    settings: Settings | None = None
    refused: tuple[str, ...] | None = None  # what is wrong with settings, a sentence each
    declared: topics.Catalogue | None = None  # contracts/topics.yaml
    catalogue: topics.Catalogue | None = None  # with the names of the environment
    prod: bool | None = None

    sources: Sequence[Source] | None = None
    unreadable: tuple[str, ...] | None = None  # what cannot be read in the manifests, a sentence each
    pods: Sequence[Pods] | None = None
    openfaas: OpenFaas | None = None

    brokers: int | None = None
    broker_settings: Mapping[str, Mapping[str, str]] | None = None  # by the broker's id
    live: Mapping[str, LiveTopic] | None = None
    groups: Mapping[str, Mapping[Place, Reach]] | None = None
    archive: Mapping[Place, Reach] | None = None  # of the letters' archive, if there is one

    placed: Mapping[str, str] | None = None  # consumer → the place of its database
    server_settings: Mapping[str, Mapping[str, str]] | None = None
    role_settings: Mapping[str, Sequence[tuple[str, str, str]]] | None = None  # who, setting, value
    revisions: Mapping[str, str | None] | None = None
    steps: Sequence[Step] | None = None
    tables: Mapping[str, frozenset[str]] | None = None
    indexes: Mapping[str, Sequence[Index]] | None = None
    roles: Mapping[str, frozenset[str]] | None = None
    lacking: Mapping[str, Sequence[Right]] | None = None
    outbox: Outbox | None = None
    letters: Sequence[Letters] | None = None
    clocks: Sequence[Clock] | None = None
    now_s: float | None = None

    left: Mapping[str, str] = field(default_factory=dict)  # field → why it is not known, or not wholly

    def with_(self, **found: Any) -> "Facts":
        """These, and what was found."""
        return dataclasses.replace(self, **found)
