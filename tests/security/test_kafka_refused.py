"""A wrong password, certificate or host name: the process says which setting it is, and nothing is lost until it is right."""

import json
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


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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
    fault: str,
    other_authority: str,
) -> None:
    planted, (told, reason) = f"planted-{uuid.uuid4().hex}", FAULTS[fault]
    relay_port, source_port, again_port = child.free_ports(3)
    stage(database)

    def env(user: str) -> dict[str, str]:
        return database.environment() | wrong(tls_kafka, user, fault, other_authority, planted)

    relay = start_process([sys.executable, "-m", CONNECTORS["relay"], "--control-port", str(relay_port)], env("orderflow-relay"))
    source = start_process(
        [sys.executable, "-m", CONNECTORS["source"], "--manifest", MANIFEST, "--control-port", str(source_port)],
        env("orderflow-source") | {"SINK_URL_TEMPLATE": "http://127.0.0.1:9/{name}"},
    )
    router = start_function("dlq_router", env("orderflow-dlq-router") | {"DLQ_PRODUCER_TIMEOUT": "2s"})
    letter = httpx.post(f"{router.url}/assembly-service/{PAID}", content=b"x", timeout=60)

    for process in (relay, source, router):
        line = stack.eventually(
            lambda of=process: [line for line in errors_of(of) if told in line["message"]], f"its error\n{process.text}"
        )[0]  # type: ignore[misc]
        assert reason in line["reason"]
        assert line["user"] in line["message"]
    # dlq_router goes on by the outbox, the relay and the source wait and say so.
    assert (200, "outbox") == (letter.status_code, letter.json()["store"])
    assert httpx.get(f"{router.url}/ready", timeout=30).status_code == 200
    status = stack.eventually(
        lambda: (of := httpx.get(f"http://127.0.0.1:{relay_port}/status", timeout=30).json())["state"] != "running" and of, "the relay"
    )
    assert ("kafka_away", 2) == (status["state"], status["pending"])
    assert httpx.get(f"http://127.0.0.1:{relay_port}/ready", timeout=30).status_code == 503
    sources = httpx.get(f"http://127.0.0.1:{source_port}/sources", timeout=30).json()["sources"]
    assert all(of["state"] == "starting" and told in of["reason"] for of in sources.values()), sources
    assert not any(planted in process.text for process in (relay, source, router))
    assert (0, 0) == (relay.stop(), source.stop())

    start_process(
        [sys.executable, "-m", CONNECTORS["relay"], "--control-port", str(again_port)],
        database.environment() | tls_kafka.env("orderflow-relay"),
    )
    stack.eventually(lambda: database.run("SELECT DISTINCT status FROM order_outbox_events") == [["sent"]], "the event and the letter")


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
    assert (200, "outbox") == (letter.status_code, letter.json()["store"])
    assert told in errors_of(router)[0]["reason"]


def test_a_client_without_tls_is_told_nothing_and_says_so(tls_kafka: guarded.Guarded) -> None:
    env = child.environment(KAFKA_BROKERS=tls_kafka.brokers)
    done = subprocess.run(stack.orderflow("topics", "list"), env=env, cwd=home.CHECKOUT, capture_output=True, text=True, check=False)

    assert (1, True) == (done.returncode, "does not answer" in done.stderr), done.stderr
