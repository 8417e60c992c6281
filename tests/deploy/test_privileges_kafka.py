"""Kafka users with the rights that infra/terraform gives them: enough for source, relay and dlq_router, and for nothing else.

A broker that asks for a password (SASL/SCRAM) and refuses what no rule allows. Kafka itself says what each user may do.
"""

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from ops import child, home
from shared import topics
from tests import conftest, controls, stack
from tests.deploy import terraforming
from tests.guarded import EVENTS, GROUPS, LETTERS, RULES, USERS, Guarded, running
from tests.source import sinks

PAID, ASSEMBLED, PLAYGROUND = "order.payment.completed", "order.assembly.completed", "test-topic"
# All of it: what is not here is refused. Who may read or write may describe, too.
ALLOWED: dict[str, dict[tuple[str, str], set[str]]] = {
    "orderflow-source": {
        **{("topic", name): {"READ", "DESCRIBE"} for name in EVENTS},
        **{("group", name): {"READ", "DESCRIBE"} for name in GROUPS},
    },
    "orderflow-relay": {("topic", name): {"WRITE", "DESCRIBE"} for name in (*EVENTS, *LETTERS)},
    "orderflow-dlq-router": {("topic", name): {"WRITE", "DESCRIBE"} for name in LETTERS},
    "orderflow-command": {
        **{("topic", name): {"READ", "DESCRIBE"} for name in (*EVENTS, *LETTERS)},
        **{("group", name): {"DESCRIBE"} for name in GROUPS},
        ("group", "orderflow-archive"): {"READ", "DESCRIBE"},
    },
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """With every topic, user and rule."""
    with running(tmp_path_factory.mktemp("kafka")) as made:
        yield made


def names(operations: Any) -> set[str]:
    return {operation.name for operation in operations or ()}


def rights(admin: AdminClient, kind: str, name: str) -> set[str]:
    """What the broker says that this client may do with a topic or a group; nothing where it does not even tell that it is there."""
    try:
        if kind == "topic":
            described = admin.describe_topics(TopicCollection([name]), include_authorized_operations=True)[name]
        else:
            described = admin.describe_consumer_groups([name], include_authorized_operations=True)[name]
        return names(described.result(stack.PATIENCE_S).authorized_operations)
    except KafkaException as exc:
        if exc.args[0].code() not in {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED}:
            raise
        return set()


def test_the_rules_are_those_of_terraform(tmp_path: Path) -> None:
    if shutil.which("terraform") is None:
        pytest.skip("!!! terraform is not installed: that its rules are those tested here was not tested !!!")
    wanted = terraforming.contract(tmp_path / "contract", 1)

    declared = [(acl["user"], acl["type"].upper(), acl["operation"].upper(), acl["name"], acl["pattern"].upper()) for acl in wanted["acls"]]
    assert sorted(RULES) == sorted(declared)
    assert set(USERS) == set(ALLOWED) == set(wanted["users"])


@pytest.mark.parametrize("user", [*USERS, "orderflow-nobody"])
def test_a_user_may_do_with_each_topic_and_group_what_the_list_says_and_no_more(guarded: Guarded, user: str) -> None:
    admin = AdminClient(guarded.client(user))
    places = [("topic", topic.name) for topic in topics.read().all()]
    places += [("group", name) for name in (*GROUPS, "orderflow-archive", "somebody-elses")]
    assert ALLOWED.get(user, {}).keys() <= set(places)
    wanted = {place: ALLOWED.get(user, {}).get(place, set()) for place in places}

    # A broker that has just made its topic of groups says for a moment that it does not keep them.
    found = stack.eventually(lambda: {place: rights(admin, *place) for place in places}, "the rights of all")
    assert wanted == found
    cluster = admin.describe_cluster(include_authorized_operations=True).result(stack.PATIENCE_S)
    assert names(cluster.authorized_operations) == set()


@pytest.mark.parametrize(
    ("user", "topic"),
    [("orderflow-source", PAID), ("orderflow-source", LETTERS[0]), ("orderflow-dlq-router", PAID), ("orderflow-relay", PLAYGROUND)],
)
def test_a_record_on_a_topic_that_is_not_its_own_is_refused(guarded: Guarded, user: str, topic: str) -> None:
    producer = Producer(guarded.client(user, **{"message.timeout.ms": 30_000}))
    reports: list[str] = []
    producer.produce(topic, b"x", on_delivery=lambda error, _: reports.append(error.name() if error else "written"))
    producer.flush(stack.PATIENCE_S)

    assert reports == ["TOPIC_AUTHORIZATION_FAILED"]


@pytest.mark.parametrize("user", ["orderflow-relay", "orderflow-dlq-router", "orderflow-command"])
def test_the_place_of_a_group_is_the_sources_alone(guarded: Guarded, user: str) -> None:
    admin = AdminClient(guarded.client(user))
    place = ConsumerGroupTopicPartitions(GROUPS[0], [TopicPartition(PAID, 0, 5)])

    try:
        (of,) = admin.alter_consumer_group_offsets([place])[GROUPS[0]].result(stack.PATIENCE_S).topic_partitions
        refused = of.error
    except KafkaException as exc:  # who may not even look at the group is refused before a partition is spoken of
        refused = exc.args[0]

    assert refused is not None
    assert refused.code() == KafkaError.GROUP_AUTHORIZATION_FAILED


def test_source_relay_and_dlq_router_do_their_work_each_as_its_own_user(
    guarded: Guarded,
    database: stack.TestDatabase,
    start_process: conftest.StartProcess,
    start_function: conftest.StartFunction,
) -> None:
    """Events go from the outbox to every group, and what one of them refuses to its dead-letter topic; so does a letter of the outbox."""
    relay_port, source_port = child.free_ports(2)
    letter_id = _stage(database)
    router = start_function("dlq_router", guarded.env("orderflow-dlq-router") | database.environment())
    sink = sinks.Sink()
    sink.script = sinks.each(lambda _: sinks.refuse())
    urls = ",".join(f"{name}={sink.url}" for name in sorted({c.function.replace("_", "-") for _, c in topics.read().consumers()}))
    try:
        start_process(
            [sys.executable, "-m", "connectors.outbox_relay", "--control-port", str(relay_port)],
            guarded.env("orderflow-relay") | database.environment(),
        )
        start_process(
            [
                *(sys.executable, "-m", "connectors.kafka_source", "--control-port", str(source_port)),
                *("--manifest", str(home.CHECKOUT / "infra" / "knative" / "sources.yaml")),
            ],
            guarded.env("orderflow-source") | {"SINK_URLS": f"{urls},dlq-router={router.url}"},
        )
        stack.eventually(lambda: database.run("SELECT DISTINCT status FROM order_outbox_events") == [["sent"]], "the outbox to be empty")
        stack.eventually(lambda: len(_letters(guarded)) >= 5, "each group's letter, and that of the outbox")
    finally:
        sink.close()

    found = _letters(guarded)
    assert {*GROUPS} == {letter["consumer"] for letter in found if "consumer" in letter}
    assert [letter_id] == [letter["staged"] for letter in found if "staged" in letter]


def _stage(database: stack.TestDatabase) -> str:
    """One event of each type in the outbox, and a letter. The letter's id."""
    letter_id = uuid.uuid4().hex
    rows = {PAID: controls.paid(), ASSEMBLED: controls.assembled(), LETTERS[0]: {"staged": letter_id}}
    for topic, payload in rows.items():
        database.run(
            """INSERT INTO order_outbox_events
                 (event_id, event_type, occurred_at, aggregate_id, payload, topic, record_key, headers, producer)
               VALUES (:id, 'test', now(), 'o', :value::bytea, :topic, 'k', '{}', 'test')""",
            id=uuid.uuid4().hex, value=json.dumps(payload).encode(), topic=topic,
        )  # fmt: skip
    return letter_id


def _letters(guarded: Guarded) -> list[dict[str, Any]]:
    """Every record of the dead-letter topics, read as the command reads them."""
    consumer = Consumer(guarded.client("orderflow-command", **{"group.id": "orderflow-test", "enable.auto.commit": False}))
    try:
        places = [TopicPartition(topic, n, 0) for topic in LETTERS for n in (0, 1)]
        left = sum(consumer.get_watermark_offsets(place, timeout=stack.PATIENCE_S)[1] for place in places)
        consumer.assign(places)
        return [json.loads(record.value() or b"{}") for record in consumer.consume(left, stack.PATIENCE_S)] if left else []
    finally:
        consumer.close()


def errors_of(process: stack.Process) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in process.text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["level"] == "error"]


@pytest.mark.parametrize("store", ["outbox", None])
def test_a_dlq_router_with_anothers_password_names_its_user_and_keeps_the_letter_or_answers_503(
    guarded: Guarded, database: stack.TestDatabase, start_function: conftest.StartFunction, store: str | None
) -> None:
    dsn = database.dsn("orderflow_dlq") if store else "postgresql://nobody:nothing@127.0.0.1:9/orders"
    env = guarded.env("orderflow-dlq-router", "orderflow-relay-password") | {"DLQ_POSTGRES_DSN": dsn, "DLQ_PRODUCER_TIMEOUT": "2s"}
    router = start_function("dlq_router", env)

    answer = httpx.post(f"{router.url}/assembly-service/{PAID}", content=b"x", timeout=60)

    assert (200 if store else 503, store) == (answer.status_code, answer.json().get("store"))
    line = stack.eventually(lambda: [line for line in errors_of(router) if "KAFKA_SASL_" in line["message"]], "its error")[0]
    assert ("orderflow-dlq-router", True) == (line["user"], "uthentication failed" in line["reason"])
    assert "relay-password" not in router.text


def test_the_command_with_anothers_password_names_its_user(guarded: Guarded) -> None:
    env = child.environment(**guarded.env("orderflow-command", "wrong"))
    done = subprocess.run(stack.orderflow("topics", "list"), env=env, cwd=home.CHECKOUT, capture_output=True, text=True, check=False)

    assert (1, True) == (done.returncode, "Kafka refuses orderflow-command: its KAFKA_SASL_… or KAFKA_SSL_… settings" in done.stderr), (
        done.stderr
    )


def test_a_relay_and_a_source_with_anothers_password_name_their_users(
    guarded: Guarded, database: stack.TestDatabase, start_process: conftest.StartProcess
) -> None:
    ports = child.free_ports(2)
    _stage(database)
    manifest = str(home.CHECKOUT / "infra" / "knative" / "sources.yaml")
    relay = start_process(
        [sys.executable, "-m", "connectors.outbox_relay", "--control-port", str(ports[0])],
        guarded.env("orderflow-relay", "wrong") | database.environment() | {"LOG_FORMAT": "json"},
    )
    source = start_process(
        [sys.executable, "-m", "connectors.kafka_source", "--manifest", manifest, "--control-port", str(ports[1])],
        guarded.env("orderflow-source", "wrong") | {"SINK_URL_TEMPLATE": "http://127.0.0.1:9/{name}", "LOG_FORMAT": "json"},
    )

    for process, user in ((relay, "orderflow-relay"), (source, "orderflow-source")):
        found = stack.eventually(lambda of=process: [line for line in errors_of(of) if "KAFKA_SASL_" in line["message"]], "its error")  # type: ignore[misc]
        assert user == found[0]["user"]
    assert {"pending"} == {row[0] for row in database.run("SELECT status FROM order_outbox_events")}
