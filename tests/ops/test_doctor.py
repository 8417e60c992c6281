"""`orderflow doctor` on real servers: green on the local stack, red with the right lines where faults are planted."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml
from confluent_kafka import Consumer, Producer, TopicPartition, admin
from pydantic import SecretStr

from ops import home, topics_admin
from ops.doctor import checks, clocks, command, facts, kafka_facts, tables
from ops.doctor.codes import CODES
from shared import config, topics
from tests import stack
from tests.ops import commands
from tests.ops.patient import ASSEMBLED, LETTERS, PAID

TOKEN = "planted-token-0123456789-abcdefghijkl"
DAY_MS = 86_400_000
APP = typer.Typer()
APP.command()(command.doctor)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.Up]:
    """`orderflow up` with its own broker and database, as `make run` starts it."""
    one = stack.Up(tmp_path_factory.mktemp("doctor"), {"ASSEMBLY_DURATION": "500ms"})
    try:
        one.wait_ready()
        yield one
    finally:
        one.process.stop(signal.SIGINT)


def test_the_local_stack_is_green_before_and_after_it_has_worked(up: stack.Up) -> None:
    orders = f"{up.told['functions']['orders']['url']}/orders"
    fresh = up.command("doctor", "--json")
    placed = httpx.post(orders, json={"user_id": "u", "items": [{"product_id": "p", "quantity": 1}]}, timeout=30).json()
    stack.eventually(lambda: httpx.get(f"{orders}/{placed['id']}", timeout=30).json()["status"] == "assembled", "the order to be assembled")
    worked = up.command("doctor", "--json", "--strict", "--write")

    for done in (fresh, worked):
        told = json.loads(done.stdout)
        assert (0, "green", [], []) == (done.returncode, told["level"], told["findings"], told["not_examined"]), done.stdout + done.stderr
        assert CODES.keys() - set(told["in_order"]) == {"token_unsendable", "drain_order", "archive_behind"}  # they do not apply here
    assert "1 replica (the brokers), declared are 3" in (prod := up.command("doctor", "--prod")).stdout
    assert 1 == prod.returncode


@pytest.fixture
def ill(
    private_kafka: Callable[..., stack.KafkaServer], private_postgres: Callable[..., stack.PostgresServer], tmp_path: Path
) -> tuple[stack.KafkaServer, stack.TestDatabase, dict[str, str], Path]:
    """A broker and a database server of its own, the environment that names them, and manifests for a cluster."""
    kafka = private_kafka({"auto.create.topics.enable": "true"})
    database = private_postgres({"fsync": "on", "synchronous_commit": "off"}).new_database()
    topics_admin.Admin(config.Settings(kafka_brokers=kafka.brokers)).create(topics.read().all(), local=True)
    knative = home.CHECKOUT / "infra" / "knative"
    manifests = tmp_path / "manifests.yaml"
    manifests.write_text("\n---\n".join((knative / name).read_text() for name in ("sources.yaml", "base/functions.yaml")))
    return kafka, database, {"KAFKA_BROKERS": kafka.brokers, "ORDER_POSTGRES_DSN": database.dsn()}, manifests


def test_planted_faults_are_each_found_and_nothing_else_is(
    ill: tuple[stack.KafkaServer, stack.TestDatabase, dict[str, str], Path],
) -> None:
    """The broker makes topics by itself, PostgreSQL does not wait for commits; the rest is planted here."""
    kafka, database, environment, manifests = ill
    before = commands.run(APP, "--json", "--no-prod", "--manifests", str(manifests), env=environment)
    assert (1, {"auto_create", "commit_not_waited"}) == (before.code, _codes(before))
    expected = {"auto_create", "commit_not_waited"}

    _configure(kafka, LETTERS, "retention.ms", str(10 * DAY_MS))
    _configure(kafka, PAID, "retention.ms", str(90 * DAY_MS))
    _configure(kafka, ASSEMBLED, "cleanup.policy", "compact")
    _configure(kafka, f"{ASSEMBLED}.dlq", "max.message.bytes", "1048576")
    _configure(kafka, f"{PAID}.dlq", "retention.bytes", "1000000")
    expected |= {
        "letters_short",
        "inbox_forgets",
        "topic_compacted",
        "inbox_never_enough",
        "letters_small",
        "topic_bytes_limit",
        "topic_differs",
    }
    expected |= {"offsets_expire"}  # 90 days are more than the brokers keep a group's place
    topics_admin.Admin(config.Settings(kafka_brokers=kafka.brokers)).delete(["test-topic"])
    expected |= {"topic_missing"}
    _produce(kafka, PAID, 5)
    _commit(kafka, "assembly-service", PAID, 0)
    _commit(kafka, "notification-payment", PAID, 1000)
    _delete_before(kafka, PAID, 3)
    expected |= {"records_lost", "offset_beyond_end"}

    database.run("DROP INDEX order_outbox_events_due")
    database.run("ALTER TABLE order_inbox_events DROP CONSTRAINT order_inbox_events_pkey")
    database.run("REVOKE INSERT ON assembly_inbox_events FROM orderflow_assembly")
    database.run(
        "INSERT INTO order_outbox_events (event_id, event_type, occurred_at, aggregate_id, payload, topic, status, producer)"
        " VALUES ('e', 't', now(), 'a', '', 'x', 'failed', 'p')"
    )
    expected |= {"index_missing", "key_missing", "grant_missing", "outbox_set_aside"}

    _edit(manifests, "KafkaSource", "notify-payment", lambda spec: spec["delivery"].pop("deadLetterSink"))
    _edit(manifests, "KafkaSource", "order-on-assembled", lambda spec: spec.update(initialOffset="latest"))
    _edit(manifests, "KafkaSource", "notify-assembly", lambda spec: spec["delivery"].update(retry=20))
    _edit(manifests, "Service", "notify", lambda spec: _container(spec)["env"].append({"name": "DELIVERY_TOKEN", "value": TOKEN}))
    expected |= {"source_without_letters", "source_latest", "source_parks", "token_unsendable"}
    environment |= {
        "DELIVERY_DEADLINE": "45s",
        "NOTIFICATION_PARKING": "true",
        "NOTIFICATION_POSTGRES_DSN": database.dsn().replace(database.name, "postgres"),
    }
    expected |= {"timeouts_order", "parking_apart", "migrations_behind", "inbox_missing"}  # nobody migrated the other database

    ran = commands.run(APP, "--json", "--no-prod", "--manifests", str(manifests), env=environment)
    told = json.loads(ran.out)
    assert (1, "red") == (ran.code, told["level"])
    assert expected == _codes(ran)
    assert {"level", "code", "what", "why", "do"} == set(told["findings"][0])
    said = [finding["what"] for finding in told["findings"]]
    for line in (
        f"{LETTERS}: retention.ms is {10 * DAY_MS} (10 days, the brokers)",
        f"assembly_inbox_events keeps rows for 32 days (from contracts/topics.yaml); {PAID} keeps records for up to 91 days",
        f"{ASSEMBLED}: cleanup.policy is compact (the brokers)",
        f"{ASSEMBLED}.dlq: max.message.bytes is 1048576",
        "test-topic (KAFKA_TOPIC, contracts/topics.yaml)",
        f"assembly-service is at offset 0 of {PAID}, partition 0, and the first that is left is 3: 3 are gone unread",
        f"notification-payment is at offset 1000 of {PAID}, partition 0, which ends at 5",
        "order_outbox_events_due of order_outbox_events in",
        "order_inbox_events in",
        "orderflow_assembly has no INSERT on assembly_inbox_events",
        "notify-payment (manifests.yaml) has no spec.delivery.deadLetterSink",
        "order-on-assembled: spec.initialOffset is latest",
        "notify has DELIVERY_TOKEN (manifests)",
        "DELIVERY_DEADLINE (environment) is 45 s; spec.delivery.timeout of assembly-on-payment, which waits for it, is 30 s",
        "NOTIFICATION_PARKING is on (environment)",
    ):
        assert any(what.startswith(line) for what in said), line
    assert TOKEN not in ran.out + ran.err
    assert "order_password" not in ran.out + ran.err


def test_what_a_role_may_not_see_is_said_and_not_in_order(kafka: stack.KafkaServer, database: stack.TestDatabase) -> None:
    """A function's own role cannot count outbox rows or letters; the catalogue tells it everything else."""
    settings = config.Settings(kafka_brokers=kafka.brokers, postgres_dsns={"order": SecretStr(database.dsn("orderflow_orders"))})
    found = command.seen(facts.Facts(declared=topics.read(), settings=settings, refused=()), settings, prod=False, write=False)
    report = checks.run(found)

    left = {code: of.reason for of in report.left for code in of.codes}
    assert {"outbox_set_aside", "outbox_late", "letters_expiring"} == left.keys()
    assert all("permission" in reason for reason in left.values()), left
    assert {"key_missing", "index_missing", "grant_missing", "role_missing", "migrations_behind", "clock_skew"} <= set(report.in_order)


def test_the_brokers_clock_is_asked_by_a_topic_that_is_gone_afterwards(kafka: stack.KafkaServer) -> None:
    settings = config.Settings(kafka_brokers=kafka.brokers)
    (found,) = kafka_facts.clocks(settings)

    assert "broker 1" == found.whose
    assert [] == list(clocks.together([found]))  # it is this machine's clock
    assert [] == [name for name in topics_admin.Admin(settings).partitions() if name.startswith("orderflow-doctor-")]


def test_the_keys_and_indexes_that_it_looks_for_are_those_that_migrations_make(database: stack.TestDatabase) -> None:
    rows = database.run(
        "SELECT t.relname, i.relname, x.indisprimary, array(SELECT a.attname::text FROM unnest(x.indkey) WITH ORDINALITY AS k(n, at)"
        " JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = k.n ORDER BY k.at)"
        " FROM pg_index AS x JOIN pg_class AS t ON t.oid = x.indrelid JOIN pg_class AS i ON i.oid = x.indexrelid"
        " WHERE t.relnamespace = current_schema()::regnamespace AND t.relname <> 'alembic_version'"
    )
    inboxes = {consumer.inbox for _, consumer in topics.read().consumers()}

    assert {(table, *columns) for table, _, primary, columns in rows if primary and table not in inboxes} == {
        (table, *columns) for table, columns in tables.KEYS.items()
    }
    assert {table for table, _, primary, columns in rows if primary and columns == ["event_id"]} >= inboxes
    assert {name for _, name, primary, _ in rows if not primary} == {name for names in tables.INDEXES.values() for name in names}


def _codes(ran: commands.Ran) -> set[str]:
    told = json.loads(ran.out)
    assert [] == told["not_examined"], ran.out
    return {finding["code"] for finding in told["findings"]}


def _client(kafka: stack.KafkaServer) -> admin.AdminClient:
    return admin.AdminClient(stack.CLIENT | {"bootstrap.servers": kafka.brokers})


def _configure(kafka: stack.KafkaServer, topic: str, name: str, value: str) -> None:
    entry = admin.ConfigEntry(name, value, incremental_operation=admin.AlterConfigOpType.SET)
    resource = admin.ConfigResource(admin.ResourceType.TOPIC, topic, incremental_configs=[entry])
    client = _client(kafka)
    client.incremental_alter_configs([resource])[resource].result(stack.PATIENCE_S)


def _produce(kafka: stack.KafkaServer, topic: str, count: int) -> None:
    producer = Producer(stack.CLIENT | {"bootstrap.servers": kafka.brokers})
    for _ in range(count):
        producer.produce(topic, b"{}", partition=0)
    assert 0 == producer.flush(stack.PATIENCE_S)


def _commit(kafka: stack.KafkaServer, group: str, topic: str, offset: int) -> None:
    consumer = Consumer(stack.CLIENT | {"bootstrap.servers": kafka.brokers, "group.id": group})
    try:
        consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    finally:
        consumer.close()


def _delete_before(kafka: stack.KafkaServer, topic: str, offset: int) -> None:
    client = _client(kafka)
    for future in client.delete_records([TopicPartition(topic, 0, offset)]).values():
        future.result(stack.PATIENCE_S)


def _edit(manifests: Path, kind: str, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    documents = [one for one in yaml.safe_load_all(manifests.read_text()) if one]
    (found,) = (one for one in documents if (one["kind"], one["metadata"]["name"]) == (kind, name))
    change(found["spec"])
    manifests.write_text(yaml.safe_dump_all(documents))


def _container(spec: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = spec["template"]["spec"]["containers"][0]
    return found
