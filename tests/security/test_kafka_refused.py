"""A wrong password, certificate or host name: the process says which setting it is, and nothing is lost until it is right."""

import json
import signal
import subprocess
import sys
import uuid
from typing import Any

import httpx
import pytest

from ops import child, home
from tests import conftest, controls, guarded, stack

PAID = "order.payment.completed"
MANIFEST = str(home.CHECKOUT / "infra" / "knative" / "sources.yaml")
NO_TLS = "its certificate is not of the authority in KAFKA_SSL_CA_LOCATION or KAFKA_SSL_CA_PEM, or is for another host than KAFKA_BROKERS"
FAULTS = {
    "password": ("its KAFKA_SASL_… or KAFKA_SSL_… settings are wrong", "uthentication failed"),
    "authority": (NO_TLS, "certificate verify failed"),
    "host": (NO_TLS, "certificate verify failed"),
}
CONNECTORS = {"relay": "connectors.outbox_relay", "source": "connectors.kafka_source"}


def wrong(broker: guarded.Guarded, user: str, fault: str, other_authority: str, planted: str) -> dict[str, str]:
    """The settings of `user` with one fault."""
    faults = {
        "password": {"KAFKA_SASL_PASSWORD": planted},
        "authority": {"KAFKA_SSL_CA_LOCATION": other_authority},
        "host": {"KAFKA_BROKERS": broker.brokers.replace("localhost", child.LOOPBACK)},  # its certificate is for localhost
    }
    return broker.env(user) | faults[fault] | {"LOG_FORMAT": "json", "LOG_LEVEL": "debug", "SHUTDOWN_TIMEOUT": "1s"}


def errors_of(process: stack.Process) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in process.text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["level"] == "error"]


def stage(database: stack.TestDatabase) -> None:
    """A paid order's event in the outbox."""
    database.run(
        """INSERT INTO order_outbox_events (event_id, event_type, occurred_at, aggregate_id, payload, topic, record_key, headers, producer)
           VALUES (:id, 'test', now(), 'o', :value::bytea, :topic, 'k', '{}', 'test')""",
        id=uuid.uuid4().hex, value=json.dumps(controls.paid()).encode(), topic=PAID,
    )  # fmt: skip


def test_each_process_says_which_setting_is_wrong_and_keeps_what_it_has(
    tls_kafka: guarded.Guarded,
    database: stack.TestDatabase,
    start_process: conftest.StartProcess,
    start_function: conftest.StartFunction,
    other_authority: str,
) -> None:
    planted = f"planted-{uuid.uuid4().hex}"
    relays, sources, routers = {}, {}, {}
    stage(database)
    for fault in FAULTS:

        def env(user: str, fault: str = fault) -> dict[str, str]:
            return database.environment() | wrong(tls_kafka, user, fault, other_authority, planted)

        ports = child.free_ports(2)
        relays[fault] = start_process(
            [sys.executable, "-m", CONNECTORS["relay"], "--control-port", str(ports[0])],
            env("orderflow-relay"),
            f"http://{child.LOOPBACK}:{ports[0]}",
        )
        sources[fault] = start_process(
            [sys.executable, "-m", CONNECTORS["source"], "--manifest", MANIFEST, "--control-port", str(ports[1])],
            env("orderflow-source") | {"SINK_URL_TEMPLATE": "http://127.0.0.1:9/{name}"},
            f"http://{child.LOOPBACK}:{ports[1]}",
        )
        routers[fault] = start_function("dlq_router", env("orderflow-dlq-router") | {"DLQ_PRODUCER_TIMEOUT": "2s"})

    for fault, (told, reason) in FAULTS.items():
        # dlq_router goes on by the outbox; the relay and the source wait, and say so.
        letter = httpx.post(f"{routers[fault].url}/assembly-service/{PAID}", content=fault.encode(), timeout=60)
        assert (200, "outbox") == (letter.status_code, letter.json().get("store")), letter.text
        assert httpx.get(f"{routers[fault].url}/ready", timeout=30).status_code == 200
        stack.eventually(lambda of=relays[fault]: ask(of, "/status")["state"] == "kafka_away", "the relay to notice")
        assert httpx.get(f"{relays[fault].url}/ready", timeout=30).status_code == 503
        found = ask(sources[fault], "/sources")["sources"]
        assert all(of["state"] == "starting" and told in of["reason"] for of in found.values()), found
        for process in (relays[fault], sources[fault], routers[fault]):
            line = stack.eventually(lambda of=process, told=told: said(of, told), f"its error\n{process.text}")[0]
            assert reason in line["reason"]
            assert line["user"] in line["message"]
            assert planted not in process.text
    assert [["pending", 4]] == database.run("SELECT status, count(*) FROM order_outbox_events GROUP BY status")

    for process in (*relays.values(), *sources.values()):
        process.send(signal.SIGTERM)
    assert {0} == {process.wait() for process in (*relays.values(), *sources.values())}
    (port,) = child.free_ports(1)
    right = database.environment() | tls_kafka.env("orderflow-relay")
    start_process([sys.executable, "-m", CONNECTORS["relay"], "--control-port", str(port)], right)
    stack.eventually(lambda: database.run("SELECT DISTINCT status FROM order_outbox_events") == [["sent"]], "the event and the letters")


def ask(process: stack.Process, path: str) -> Any:
    return httpx.get(process.url + path, timeout=30).json()


def said(process: stack.Process, told: str) -> list[dict[str, Any]]:
    return [line for line in errors_of(process) if told in line["message"]]


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("KAFKA_SSL_CA_LOCATION", "/no/such/file", "KAFKA_SSL_CA_LOCATION: Kafka's client does not take it: "),
        ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-3", "KAFKA_SASL_MECHANISM"),
        ("KAFKA_SASL_PASWORD", "planted-0815-4711", "KAFKA_SASL_PASWORD: Kafka's client does not take it: "),
    ],
)
def test_a_setting_that_no_client_takes_stops_the_process_before_it_begins(
    tls_kafka: guarded.Guarded, database: stack.TestDatabase, start_function: conftest.StartFunction, setting: str, value: str, told: str
) -> None:
    env = child.environment(
        **tls_kafka.env("orderflow-relay") | database.environment() | {setting: value, "SINK_URL_TEMPLATE": "http://x/{name}"}
    )
    commands = {
        "relay": [sys.executable, "-m", CONNECTORS["relay"], "--control-port", "0"],
        "source": [sys.executable, "-m", CONNECTORS["source"], "--manifest", MANIFEST, "--control-port", "0"],
        "command": stack.orderflow("topics", "list"),
    }
    for name, command in commands.items():
        done = subprocess.run(command, env=env, cwd=home.CHECKOUT, capture_output=True, text=True, check=False, timeout=60)
        assert (2, True) == (done.returncode, told in done.stderr), (name, done.stderr)
        assert "Traceback" not in done.stderr
        assert "planted-0815" not in done.stderr
    router = start_function("dlq_router", {**tls_kafka.env("orderflow-dlq-router"), **database.environment(), setting: value})
    letter = httpx.post(f"{router.url}/assembly-service/{PAID}", content=b"x", timeout=60)
    assert (200, "outbox") == (letter.status_code, letter.json().get("store")), letter.text
    assert told in errors_of(router)[0]["reason"]
