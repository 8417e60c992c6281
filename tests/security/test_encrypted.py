"""An order goes all the way over SASL_SSL and PostgreSQL with TLS, each process as its own user, every secret in a file."""

import json
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

import httpx
from confluent_kafka import Consumer, Producer, TopicPartition

from ops import child, home
from shared import topics
from tests import conftest, guarded, stack
from tests.security import tls

PAID = "order.payment.completed"
FUNCTIONS = ("orders", "assembly_on_payment", "order_on_assembled", "notify", "dlq_router")
SECRET = ("KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD")


def in_files(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """`env` with every secret in a file of its own."""
    made = dict(env)
    for name in env:
        if name in SECRET or name.endswith("_POSTGRES_DSN") or name == "DELIVERY_TOKEN":
            file = folder / f"{name.lower()}-{uuid.uuid4().hex[:6]}"
            file.write_text(made.pop(name) + "\n", encoding="utf-8")
            file.chmod(0o600)
            made[f"{name}_FILE"] = str(file)
    return made


def test_an_order_goes_all_the_way_encrypted_and_so_does_a_letter(
    tls_kafka: guarded.Guarded,
    tls_postgres: tls.TlsServer,
    tls_database: stack.TestDatabase,
    start_function: conftest.StartFunction,
    start_process: conftest.StartProcess,
    tmp_path: Path,
) -> None:
    common = {"DELIVERY_TOKEN": uuid.uuid4().hex, "ASSEMBLY_DURATION": "200ms", "RELAY_SWEEP_INTERVAL": "500ms"}
    dsns = tls_database.environment()
    by_function = {consumer.function: f"{consumer.role.upper()}_POSTGRES_DSN" for _, consumer in topics.read().consumers()}
    by_function |= {"orders": "ORDER_POSTGRES_DSN", "dlq_router": "DLQ_POSTGRES_DSN"}
    urls: dict[str, str] = {}
    for name in FUNCTIONS:
        setting = by_function[name]
        own = {setting: tls_database.dsn("orderflow_order") if name == "order_on_assembled" else dsns[setting]}
        kafka = tls_kafka.env("orderflow-dlq-router") if name == "dlq_router" else {}
        urls[name] = start_function(name, in_files(tmp_path, common | own | kafka)).url
    ports = child.free_ports(2)
    start_process(
        [sys.executable, "-m", "connectors.outbox_relay", "--control-port", str(ports[0])],
        in_files(tmp_path, common | tls_kafka.env("orderflow-relay") | {"RELAY_POSTGRES_DSN": dsns["RELAY_POSTGRES_DSN"]}),
    )
    sinks = ",".join(f"{name.replace('_', '-')}={url}" for name, url in urls.items())
    start_process(
        [
            *(sys.executable, "-m", "connectors.kafka_source", "--control-port", str(ports[1])),
            *("--manifest", str(home.CHECKOUT / "infra" / "knative" / "sources.yaml")),
        ],
        in_files(tmp_path, common | tls_kafka.env("orderflow-source") | {"SINK_URLS": sinks}),
    )

    order = {"user_id": "user-7", "items": [{"product_id": "p", "quantity": 1}]}
    placed = httpx.post(f"{urls['orders']}/orders", json=order, timeout=30)
    assert placed.status_code == 201, placed.text
    poison = Producer(stack.CLIENT | {"bootstrap.servers": tls_kafka.server.brokers})
    poison.produce(PAID, b"poison")
    assert poison.flush(stack.PATIENCE_S) == 0

    order_id = placed.json()["id"]
    stack.eventually(lambda: httpx.get(f"{urls['orders']}/orders/{order_id}", timeout=30).json()["status"] == "assembled", "the order")
    sent = "SELECT count(*) FROM notification_inbox_events WHERE order_id = :id AND status = 'sent'"
    stack.eventually(lambda: tls_database.run(sent, id=order_id) == [[2]], "both messages")
    poisoned = {consumer.group for topic, consumer in topics.read().consumers() if topic.name == PAID}
    stack.eventually(lambda: {letter["consumer"] for letter in letters(tls_kafka)} == poisoned, "the poison's letters")
    assert [[0]] == tls_database.run("SELECT count(*) FROM order_outbox_events WHERE status <> 'sent'")

    plain = "SELECT DISTINCT usename FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE NOT ssl AND usename IS NOT NULL"
    assert {"postgres"} >= set(tls_postgres.administer(plain).split())
    versions = "SELECT DISTINCT version FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename LIKE 'orderflow%'"
    assert tls_postgres.administer(versions) == "TLSv1.3"


def letters(broker: guarded.Guarded) -> list[dict[str, str]]:
    """Every letter, read over TLS as the command reads them."""
    consumer = Consumer(broker.client("orderflow-command", **{"group.id": "orderflow-test", "enable.auto.commit": False}))
    try:
        places = [TopicPartition(topic, n, 0) for topic in guarded.LETTERS for n in (0, 1)]
        left = sum(consumer.get_watermark_offsets(place, timeout=stack.PATIENCE_S)[1] for place in places)
        consumer.assign(places)
        return [json.loads(record.value() or b"{}") for record in consumer.consume(left, stack.PATIENCE_S)] if left else []
    finally:
        consumer.close()
