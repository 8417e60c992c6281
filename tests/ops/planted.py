"""Everything that doctor can find, planted one at a time: its code, what plants it, and what is then said."""

import dataclasses

from ops.doctor.facts import Clock, Facts, Index, Letters, OpenFaas, Outbox, Pods, Reach, Right
from tests.ops import patient
from tests.ops.patient import ASSEMBLED, LETTERS, OTHER, PAID, PLACE, Plant, environment, field, source, topic

DAY_MS = 86_400_000
CHAIN = (("gateway.writeTimeout", 29.0), ("gateway.upstreamTimeout", 28.0), ("write_timeout", 27.0), ("exec_timeout", 27.0))


def group(at: Reach) -> Plant:
    return field(groups={"order-service": {(ASSEMBLED, 3): at}})


def pod(name: str, grace_s: float | None = 28.0, answer_s: float | None = 28.0, **given: str) -> Plant:
    return field(pods=[Pods(name, {"DRAIN_DELAY": "0s"} | given, grace_s, answer_s)])


def server(name: str, value: str) -> Plant:
    return lambda of: patient.server_of(of, name, value)


def without_index(name: str) -> Plant:
    return lambda of: of.with_(indexes={PLACE: [one for one in of.indexes[PLACE] if one.name != name]})


def without_topic(of: Facts) -> Facts:
    return of.with_(live={name: one for name, one in (of.live or {}).items() if name != LETTERS})


def both(*plants: Plant) -> Plant:
    def plant(of: Facts) -> Facts:
        for one in plants:
            of = one(of)
        return of

    return plant


PLANTED: list[tuple[str, Plant, str]] = [
    ("setting_refused", field(refused=("ASSEMBLY_DURATION: must be a duration",)), "ASSEMBLY_DURATION: must be"),
    ("outbox_apart", lambda of: of.with_(placed={**(of.placed or {}), "relay": OTHER}), f"RELAY_POSTGRES_DSN names {OTHER}"),
    (
        "parking_apart",
        both(environment(NOTIFICATION_PARKING="true"), lambda of: of.with_(placed={**(of.placed or {}), "notification": OTHER})),
        "NOTIFICATION_PARKING is on",
    ),
    ("timeouts_order", environment(DELIVERY_DEADLINE="30s"), "DELIVERY_DEADLINE (environment) is 30 s; spec.delivery.timeout of"),
    ("timeouts_order", environment(RELAY_DELIVERY_TIMEOUT="16s"), "RELAY_DELIVERY_TIMEOUT is 16 s (environment)"),
    ("timeouts_order", source("order-on-assembled", "spec.delivery.timeout", "PT25S"), "timeoutSeconds of order-on-assembled is 28 s"),
    ("timeouts_order", pod("notify", DELIVERY_DEADLINE="28s"), "DELIVERY_DEADLINE of notify is 28 s; timeoutSeconds of notify"),
    ("timeouts_order", field(openfaas=OpenFaas(CHAIN, queue=False, from_zero=False)), "exec_timeout is 27 s; write_timeout, which waits"),
    ("lease_order", environment(NOTIFICATION_LEASE="30s"), "NOTIFICATION_LEASE (environment) is 30 s; spec.delivery.timeout of notify"),
    ("lease_order", pod("notify", NOTIFICATION_LEASE="28s"), "NOTIFICATION_LEASE of notify is 28 s; timeoutSeconds of notify"),
    ("drain_order", pod("orders", SHUTDOWN_TIMEOUT="24s"), "SHUTDOWN_TIMEOUT 24 s; the platform kills after 28 s"),
    ("drain_order", pod("kafka-source", 30.0, None, DRAIN_DELAY="20s"), "DRAIN_DELAY 20 s + SHUTDOWN_TIMEOUT 10 s"),
    ("source_invalid", field(unreadable=("x.yaml holds no KafkaSource",)), "x.yaml holds no KafkaSource"),
    ("source_invalid", source("notify-payment", "spec.ordering", "sideways"), "notify-payment: spec.ordering: "),
    ("source_missing", lambda of: of.with_(sources=list(of.sources or ())[1:]), "assembly-on-payment, for assembly-service of"),
    ("source_without_letters", source("notify-payment", "spec.delivery.deadLetterSink", None), "notify-payment (sources.yaml) has no"),
    ("source_without_letters", source("notify-payment", "spec.delivery", None), "notify-payment (sources.yaml) has no"),
    ("source_latest", source("notify-payment", "spec.initialOffset", "latest"), "notify-payment: spec.initialOffset is latest"),
    ("source_latest", source("notify-payment", "spec.initialOffset", None), "is not stated, and KafkaSource's default is latest"),
    ("source_without_group", source("notify-payment", "spec.consumerGroup", None), "notify-payment (sources.yaml)"),
    ("source_no_retry", source("notify-payment", "spec.delivery.retry", None), "notify-payment: retry is None"),
    ("source_parks", source("notify-payment", "spec.delivery.retry", 20), "retries come after up to 524288 s"),
    ("source_unordered", source("notify-payment", "spec.ordering", "unordered"), "notify-payment: spec.ordering is unordered"),
    ("source_differs", source("notify-payment", "spec.ceOverrides.extensions.kafkatopic", "x"), "kafkatopic is 'x'"),
    ("source_differs", source("notify-payment", "spec.topics", [ASSEMBLED]), f"spec.topics is ['{ASSEMBLED}']"),
    ("token_unsendable", pod("notify", DELIVERY_TOKEN_FILE="/run/secrets/token"), "notify has DELIVERY_TOKEN_FILE"),
    ("token_unsendable", pod("dlq-router", DELIVERY_TOKEN="x"), "dlq-router has DELIVERY_TOKEN"),
    ("gateway_async", field(openfaas=OpenFaas((), queue=True, from_zero=False)), "async is true"),
    ("gateway_holds", field(openfaas=OpenFaas((), queue=False, from_zero=True)), "gateway.scaleFromZero is true"),
    ("topic_missing", without_topic, f"{LETTERS} (KAFKA_NOTIFICATION_DLQ_TOPIC"),
    ("topic_leaderless", topic(PAID, {"leader": None}), f"{PAID}: partitions 0, 1, 2"),
    ("topic_leaderless", topic(PAID, {"in_sync": (1,)}), f"{PAID}: partitions 0, 1, 2"),
    ("topic_out_of_sync", topic(PAID, {"in_sync": (1, 2)}), f"{PAID}: partitions 0, 1, 2"),
    ("topic_fewer_partitions", lambda of: _partitions(of, 2), f"{PAID} has 2 partitions (the brokers), declared are 8"),
    ("topic_differs", lambda of: _partitions(of, 9), f"{PAID}: partitions are 9, declared are 8"),
    ("topic_differs", topic(PAID, segment_ms="3600000"), f"{PAID}: segment.ms is 3600000, declared is 86400000"),
    ("unclean_election", topic(PAID, unclean_leader_election_enable="true"), f"{PAID}: unclean.leader.election.enable is true"),
    ("auto_create", field(broker_settings={"2": {"auto.create.topics.enable": "true"}}), "true on broker 2"),
    ("topic_bytes_limit", topic(PAID, retention_bytes="1000000"), f"{PAID}: retention.bytes is 1000000"),
    ("timestamps_ahead", lambda of: _newest(of, patient.NOW_S + 7200), f"{PAID}: its newest record is 7200 s ahead"),
    (
        "offsets_expire",
        field(broker_settings={"1": {"auto.create.topics.enable": "false", "offsets.retention.minutes": "1440"}}),
        "offsets.retention.minutes is 1440 on broker 1",
    ),
    ("records_lost", group(Reach(10, 25, 60, 40)), f"{ASSEMBLED}, partition 3, and the first that is left is 25: 15"),
    ("offset_beyond_end", group(Reach(61, 0, 60, 40)), "which ends at 60"),
    ("lag_expiring", group(Reach(10, 5, 60, 40)), "30 records from there are older than 75% of its retention"),
    ("lag_expiring", group(Reach(10, 5, 60, 60)), "50 records from there are older"),
    ("archive_behind", field(archive={(LETTERS, 0): Reach(2, 0, 6, 5)}), f"3 letters of {LETTERS}, partition 0"),
    ("migrations_behind", field(revisions={PLACE: "0001"}), f"{PLACE} is at 0001, this version's newest is 0004"),
    ("migrations_behind", field(revisions={PLACE: None}), f"{PLACE} is at no migration"),
    ("inbox_missing", lambda of: _without_table(of, "order_inbox_events"), "order_inbox_events of order_on_assembled"),
    ("key_missing", without_index("notification_inbox_events_pkey"), "notification_inbox_events in localhost:5432/orders has no valid"),
    ("key_missing", without_index("order_outbox_events_pkey"), "order_outbox_events in localhost:5432/orders has no valid"),
    ("index_missing", without_index("order_outbox_events_due"), "order_outbox_events_due of order_outbox_events in"),
    (
        "index_missing",
        lambda of: of.with_(indexes={PLACE: [*(of.indexes or {})[PLACE], Index("orders", "orders_ccnew", (), unique=False, valid=False)]}),
        "orders_ccnew of orders in localhost:5432/orders is not valid",
    ),
    ("role_missing", field(roles={PLACE: frozenset({"orderflow_orders"})}), "orderflow_relay of outbox_relay"),
    (
        "grant_missing",
        field(lacking={PLACE: [Right("orderflow_relay", "order_outbox_events", "UPDATE", "status")]}),
        "orderflow_relay has no UPDATE (status) on order_outbox_events",
    ),
    ("fsync_off", server("fsync", "off"), "fsync is off"),
    ("fsync_off", server("full_page_writes", "off"), "full_page_writes is off"),
    ("commit_not_waited", server("synchronous_commit", "off"), "synchronous_commit is off"),
    ("commit_not_waited", field(role_settings={PLACE: [("orderflow_orders", "synchronous_commit", "off")]}), "off for orderflow_orders"),
    ("database_read_only", server("in_recovery", "on"), "is a replica"),
    ("database_read_only", server("default_transaction_read_only", "on"), "has default_transaction_read_only on"),
    ("connections_few", server("max_connections", "80"), "leaves 77; 25 function processes"),
    ("vacuum_off", server("autovacuum", "off"), "autovacuum is off"),
    ("outbox_set_aside", field(outbox=Outbox(2, 0.0)), "2 rows of order_outbox_events"),
    ("outbox_late", field(outbox=Outbox(0, 61.0)), "due for 61 s"),
    ("letters_expiring", field(letters=[Letters(LETTERS, 4, 25 * 86_400.0)]), "the oldest is 25 days old of 30"),
    ("clock_skew", field(clocks=[Clock("broker 2", -7.0, 0.5)]), "broker 2 is 7.0 s (± 0.5 s) behind this machine"),
    ("clock_far", field(clocks=[Clock("broker 2", 3600.0, 0.5)]), "broker 2 is 3600.0 s (± 0.5 s) ahead of this machine"),
]  # fmt: skip
# Each of these is not as declared as well, and said to be.
ODD: list[tuple[str, Plant, str]] = [
    ("letters_are_source", lambda of: source("notify-payment", "spec.sink", _sink(of))(of), "its dead-letter sink is its sink"),
    ("group_shared", source("notify-assembly", "spec.consumerGroup", "notification-payment"), "notify-payment and notify-assembly: "),
    ("replication_single", topic(PAID, {"replicas": (1,), "in_sync": (1,)}, min_insync_replicas="1"), f"{PAID} has 1 replica"),
    ("insync_single", topic(PAID, min_insync_replicas="1"), f"{PAID}: min.insync.replicas is 1 of 3"),
    ("insync_all", topic(PAID, min_insync_replicas="3"), f"{PAID}: min.insync.replicas is 3 of 3"),
    ("inbox_forgets", topic(LETTERS, retention_ms=str(60 * DAY_MS)), f"keeps rows for 32 days (from contracts/topics.yaml); {LETTERS}"),
    ("inbox_never_enough", topic(LETTERS, retention_ms="-1"), f"removes rows after 32 days (from contracts/topics.yaml); {LETTERS}"),
    ("letters_short", topic(LETTERS, retention_ms=str(20 * DAY_MS)), f"{LETTERS}: retention.ms is {20 * DAY_MS} (20 days, the brokers)"),
    ("letters_small", topic(LETTERS, max_message_bytes="2097152"), "is 2097152; a letter of"),
]  # fmt: skip


def _sink(of: Facts) -> object:
    return next(one.at("spec.delivery.deadLetterSink") for one in of.sources or () if one.name == "notify-payment")


def _partitions(of: Facts, count: int) -> Facts:
    assert of.live is not None
    found = of.live[PAID]
    partitions = tuple(dataclasses.replace(found.partitions[0], number=n) for n in range(count))
    return of.with_(live={**of.live, PAID: dataclasses.replace(found, partitions=partitions)})


def _newest(of: Facts, at_s: float) -> Facts:
    assert of.live is not None
    return of.with_(live={**of.live, PAID: dataclasses.replace(of.live[PAID], newest_at_s=at_s)})


def _without_table(of: Facts, name: str) -> Facts:
    return of.with_(tables={PLACE: (of.tables or {})[PLACE] - {name}})
