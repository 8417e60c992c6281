"""A system in which all is in order, as plain facts; and copies of it in which something is not."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from ops import home, roles
from ops.doctor import checks, command, facts, files
from ops.doctor.facts import Facts, Index, LiveTopic, Outbox, Reach, Source
from ops.doctor.findings import Finding
from ops.doctor.tables import INDEXES, KEYS
from ops.topics_admin import Partition
from shared import topics
from tests.unit import test_config

assert command.CHECKED  # each has registered its checks
NOW_S = 1_800_000_000.0
PLACE, OTHER = "localhost:5432/orders", "localhost:5432/elsewhere"
PAID, ASSEMBLED, LETTERS = "order.payment.completed", "order.assembly.completed", "order.notification.dlq"
CATALOGUE = topics.read()
SERVER = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "autovacuum": "on",
    "in_recovery": "off",
    "default_transaction_read_only": "off",
    "max_connections": "200",
    "superuser_reserved_connections": "3",
    "reserved_connections": "0",
}
Plant = Callable[[Facts], Facts]


def healthy(**environment: str) -> Facts:
    """Three brokers, one database, Knative's KafkaSources: everything as it should be."""
    text = (home.CHECKOUT / "infra" / "knative" / "sources.yaml").read_text(encoding="utf-8")
    sources = [Source(one["metadata"]["name"], one, knative=True, origin="sources.yaml") for one in yaml.safe_load_all(text)]
    consumers = [consumer for _, consumer in CATALOGUE.consumers()]
    inboxes = {consumer.inbox: ("event_id",) for consumer in consumers}
    indexes = [Index(table, f"{table}_pkey", columns, unique=True, valid=True) for table, columns in (KEYS | inboxes).items()]
    indexes += [Index(table, name, ("x",), unique=False, valid=True) for table, names in INDEXES.items() for name in names]
    base = files.with_openfaas(Facts(), None)
    return base.with_(
        settings=test_config.load(**environment),
        refused=(),
        declared=CATALOGUE,
        catalogue=CATALOGUE,
        prod=True,
        sources=sources,
        unreadable=(),
        pods=[facts.Pods(name, {"DRAIN_DELAY": "0s"}, 28.0, 28.0) for name in ("orders", "notify", "order-on-assembled", "dlq-router")],
        brokers=3,
        broker_settings={str(n): {"auto.create.topics.enable": "false", "offsets.retention.minutes": "10080"} for n in (1, 2, 3)},
        live={topic.name: live(topic) for topic in CATALOGUE.all()},
        groups={
            consumer.group: {(topic.name, 0): Reach(committed=50, first=0, end=60, expiring=40)}
            for topic, consumer in CATALOGUE.consumers()
        },
        archive={(LETTERS, 0): Reach(committed=5, first=0, end=6, expiring=5)},
        placed=dict.fromkeys([*(consumer.role for consumer in consumers), "dlq", "relay"], PLACE),
        server_settings={PLACE: SERVER},
        role_settings={PLACE: []},
        revisions={PLACE: "0003"},
        steps=[facts.Step("0001", contract=False), facts.Step("0003", contract=False), facts.Step("0004", contract=True)],
        tables={PLACE: frozenset({*KEYS, *inboxes, *INDEXES})},
        indexes={PLACE: indexes},
        roles={PLACE: frozenset(role.name for role in roles.read())},
        lacking={PLACE: []},
        outbox=Outbox(set_aside=0, oldest_due_s=3.0),
        letters=[facts.Letters(LETTERS, 2, 3600.0)],
        clocks=[facts.Clock(f"PostgreSQL at {PLACE}", 0.3, 0.01)],
        now_s=NOW_S,
    )


def live(topic: topics.Topic) -> LiveTopic:
    """`topic` as declared, on three brokers."""
    own = {"min.insync.replicas": str(topic.min_insync_replicas), "unclean.leader.election.enable": "false"}
    holders = (1, 2, 3)[: topic.replication_factor]
    parts = tuple(Partition(n, 1, holders, holders, 0, 60) for n in range(topic.partitions))
    return LiveTopic(topic.name, parts, dict(topic.config) | own, NOW_S - 5)


def topic(name: str, parts: Mapping[str, object] | None = None, **settings: str) -> Plant:
    """The topic `name` with other settings (`retention_ms` is retention.ms), or with partitions that are all otherwise."""

    def plant(of: Facts) -> Facts:
        assert of.live is not None
        found = of.live[name]
        changed = {key.replace("_", "."): value for key, value in settings.items()}
        partitions = tuple(dataclasses.replace(part, **parts) for part in found.partitions) if parts else found.partitions
        return of.with_(live={**of.live, name: dataclasses.replace(found, config={**found.config, **changed}, partitions=partitions)})

    return plant


def source(name: str, path: str, value: object) -> Plant:
    """The KafkaSource `name` with `value` at `path`; None takes it away."""

    def plant(of: Facts) -> Facts:
        assert of.sources is not None
        return of.with_(sources=[_with(one, path, value) if one.name == name else one for one in of.sources])

    return plant


def field(**values: Any) -> Plant:
    """Other values of facts."""
    return lambda of: of.with_(**values)


def server_of(of: Facts, name: str, value: str) -> Facts:
    """`of` with another setting of PostgreSQL."""
    return of.with_(server_settings={PLACE: SERVER | {name: value}})


def environment(**values: str) -> Plant:
    """Other settings."""
    return lambda of: of.with_(settings=test_config.load(**values))


def found(of: Facts) -> list[Finding]:
    """What doctor finds."""
    return list(checks.run(of).findings)


def _with(one: Source, path: str, value: object) -> Source:
    document: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(one.document)))
    *before, last = path.split(".")
    part = document
    for name in before:
        part = part[name]
    part[last] = value
    if value is None:
        del part[last]
    return dataclasses.replace(one, document=document)
