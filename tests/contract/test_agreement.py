"""Topics, AsyncAPI, schemas, manifests and code say the same; and the check that says so would notice if they did not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ops import agreement, contracts, home
from tests.ops import commands

TOPICS, SOURCES, ASYNCAPI = "contracts/topics.yaml", "infra/knative/sources.yaml", "contracts/asyncapi.yaml"
Copy = Callable[[str, str, str], Path]


@pytest.fixture
def changed(tmp_path: Path) -> Copy:
    """changed(file, old, new) -> a copy of the checkout's contracts, manifests and functions with one change."""

    def change(file: str, old: str, new: str) -> Path:
        for folder in ("contracts", "infra/knative", "functions"):
            shutil.copytree(home.CHECKOUT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for connector in ("outbox_relay", "kafka_source"):
            (tmp_path / "connectors" / connector).mkdir(parents=True)
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert old in text
        (tmp_path / file).write_text(text.replace(old, new, 1), encoding="utf-8")
        return tmp_path

    return change


def test_everything_agrees() -> None:
    ran = commands.run(contracts.app, "check")

    assert (ran.code, ran.err) == (0, "topics, AsyncAPI, schemas, manifests, deployment files and code agree\n")


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        # topics.yaml, and what it says of the code
        (TOPICS, "max.message.bytes: 2162688", "max.message.bytes: 2097152", "twice its largest source topic's and 64 KiB"),
        (TOPICS, "retention.ms: 2592000000", "retention.ms: 604800000", "records of its source topics live up to 691200000 ms"),
        (TOPICS, "retention.ms: 2592000000", "retention.ms: 1900799999", "a letter must stay 14 days longer"),
        (TOPICS, "retention.ms: 604800000", "retention.ms: -1", "records of its source topics live for ever"),
        (TOPICS, "retention.ms: 2592000000", "retention.bytes: 1\n      retention.ms: 2592000000", "retention.bytes must not be set"),
        (TOPICS, "retention.ms: 2592000000", "cleanup.policy: compact\n      retention.ms: 2592000000", "cleanup.policy must be delete"),
        (TOPICS, "min_insync_replicas: 2 ", "min_insync_replicas: 4 ", "min_insync_replicas are more than replication_factor"),
        (TOPICS, "setting: KAFKA_ASSEMBLY_CONSUMER_GROUP_ID", "setting: KAFKA_NOTIFICATION_PAYMENT_GROUP_ID", "overrides two names"),
        (TOPICS, "setting: KAFKA_ASSEMBLY_CONSUMER_GROUP_ID", "setting: ASSEMBLY_GROUP", "ASSEMBLY_GROUP is no setting"),
        (TOPICS, "event: OrderPaid", "event: OrderLost", "there is no event OrderLost"),
        (TOPICS, "event: OrderPaid", "event: OrderAssembled", "no topic carries OrderPaid"),
        (TOPICS, "function: notify", "function: announce", "there is no functions/announce/main.py"),
        (TOPICS, "inbox: assembly_inbox_events", "inbox: order_inbox_events", "its inbox is not order_inbox_events"),
        (TOPICS, "dead_letter_topic: order.assembly.completed.dlq", "dead_letter_topic: order.notification.dlq", "no consumer's letters"),
        (TOPICS, "dead_letter_topic: order.assembly.completed.dlq", "dead_letter_topic: lost", "is not declared under dead_letter_topics"),
        # the code
        ("functions/order_on_assembled/main.py", "@on(events.OrderAssembled", "@on(events.OrderPaid", "it does not handle"),
        ("functions/notify/main.py", "@on_each(", "@on(", "its effect lies outside the database: that is @on_each"),
        (TOPICS, "effect: outside                   # the database, so", "effect: inside # so", "its rows differ in effect"),
        (TOPICS, "inbox: order_inbox_events", "inbox: assembly_inbox_events", "belongs to assembly_on_payment and order_on_assembled"),
        (TOPICS, "inbox: assembly_inbox_events", "inbox: orders_inbox_events", "orderflow_orders is the role of orders and of assembly"),
        ("contracts/roles.yaml", "process: dlq_router", "process: outbox_relay", "functions/dlq_router/main.py: no row of topics.yaml"),
        ("contracts/roles.yaml", "process: outbox_relay", "process: relay", "there is no process relay"),
        # the manifests
        (SOURCES, "name: assembly-on-payment", "name: assembly", "there is no KafkaSource assembly-on-payment"),
        (SOURCES, "topics: [order.payment.completed]", "topics: [order.assembly.completed]", "spec.topics"),
        (SOURCES, "consumerGroup: assembly-service", "consumerGroup: other", "spec.consumerGroup"),
        (SOURCES, "initialOffset: earliest", "initialOffset: latest", "spec.initialOffset"),
        (SOURCES, "ordering: ordered", "ordering: unordered", "spec.ordering"),
        (SOURCES, "name: assembly-on-payment}", "name: notify}", "spec.sink.ref.name"),
        (SOURCES, "uri: /assembly-service/", "uri: /order-service/", "spec.delivery.deadLetterSink.uri"),
        (SOURCES, "kafkatopic: order.payment", "kafkatopic: order.assembly", "spec.ceOverrides.extensions.kafkatopic"),
        (SOURCES, "key-type: byte-array", "key-type: string", "metadata.labels"),
        (SOURCES, "orderflow.dev/batch-size", "orderflow.dev/batchsize", "orderflow.dev/batchsize"),
        (SOURCES, 'batch-size: "1000"', 'batch-size: "none"', "orderflow.dev/batch-size"),
        (SOURCES, 'batch-size: "1000"', "batch-size: 500", "Kubernetes takes text only"),
        (SOURCES, "retry: 3", "retry: 4", "must come after [1.0, 2.0, 4.0] s"),
        (SOURCES, "backoffDelay: PT0.5S", "backoffDelay: PT1S", "must come after [1.0, 2.0, 4.0] s"),
        (SOURCES, "exponential", "linear", "must come after [1.0, 2.0, 4.0] s"),
        (SOURCES, "timeout: PT30S", "timeout: PT15S", "must be longer than DELIVERY_DEADLINE, 20 s"),
        # AsyncAPI
        (ASYNCAPI, "asyncapi: 3.0.0", "asyncapi: 2.6.0", "asyncapi"),
        (ASYNCAPI, "action: send", "action: publish", "operations.publishOrderPaymentCompleted"),
        (ASYNCAPI, "messages/OrderPaid'", "messages/OrderPayed'", "points at nothing"),
        (ASYNCAPI, "./schemas/dead-letter.json", "./schemas/letter.json", "points at nothing"),
        (ASYNCAPI, "address: order.notification.dlq", "address: order.notifications.dlq", "order.notification.dlq has no channel"),
        (ASYNCAPI, "partitions: 8", "partitions: 6", "order.payment.completed: partitions is 6, in topics.yaml 8"),
        (ASYNCAPI, "retention.ms: 604800000", "retention.ms: 1", "topicConfiguration"),
        (ASYNCAPI, "const: order-service", "const: orders-service", "the receiver order-service of order.assembly.completed"),
        (ASYNCAPI, "deadLetterTopic: order.notification.dlq", "deadLetterTopic: lost", "the receiver notification-payment"),
        (ASYNCAPI, "name: order.payment.completed\n", "name: order.paid\n", "must be named order.payment.completed"),
        (ASYNCAPI, "ce_causationid:", "ce_cause:", "headers are"),
        (ASYNCAPI, "ce_correlationid, content-type]", "content-type]", "required headers are"),
    ],
)  # fmt: skip
def test_a_difference_is_found_and_named(changed: Copy, file: str, old: str, new: str, told: str) -> None:
    found = agreement.faults(changed(file, old, new))

    assert any(told in fault for fault in found), found


@pytest.mark.parametrize(
    ("kept_ms", "enough"), [(691_200_000 + 14 * 86_400_000 - 1, False), (691_200_000 + 14 * 86_400_000, True), (-1, True)]
)
def test_L21_a_letter_outlives_its_record_by_the_time_that_people_need(changed: Copy, kept_ms: int, enough: bool) -> None:
    found = agreement.faults(changed(TOPICS, "retention.ms: 2592000000", f"retention.ms: {kept_ms}"))

    assert enough is not any("a letter must stay 14 days longer" in fault for fault in found)


def test_an_unreadable_file_is_named(changed: Copy) -> None:
    assert "asyncapi.yaml" in agreement.faults(changed(ASYNCAPI, "servers:", "servers: ["))[0]


def test_the_generated_schemas_are_up_to_date() -> None:
    assert contracts.schema_faults(contracts.SCHEMAS) == []


def test_a_schema_that_is_stale_missing_or_of_no_model_is_found(tmp_path: Path) -> None:
    shutil.copytree(contracts.SCHEMAS, tmp_path / "schemas")
    stale, missing, orphan = (tmp_path / "schemas" / f"{name}.json" for name in ("dead-letter", "order.payment.completed", "orphan"))
    stale.write_text(stale.read_text(encoding="utf-8").replace("kopecks", "").replace("attempts", "tries"), encoding="utf-8")
    missing.unlink()
    orphan.write_text("{}", encoding="utf-8")

    found = contracts.schema_faults(tmp_path / "schemas")

    assert [fault.partition(";")[0].removeprefix("contracts/schemas/") for fault in found] == [
        "dead-letter.json is not what its model says",
        "order.payment.completed.json is missing",
        "orphan.json is of no model",
    ]
