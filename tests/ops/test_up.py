"""`orderflow up`: what it refuses with the way out, what it uses, what each process may know, and that nothing outlives it."""

import json
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from ops import child
from ops import home as local_home
from ops.deployments import functions
from shared import topics
from tests import stack

_TOPICS = ("ORDER_PAYMENT_COMPLETED", "ORDER_ASSEMBLY_COMPLETED")
_LETTERS = ("ORDER_PAYMENT_COMPLETED_DLQ", "ORDER_ASSEMBLY_COMPLETED_DLQ", "NOTIFICATION_DLQ")


@pytest.fixture(scope="module")
def up(
    tmp_path_factory: pytest.TempPathFactory, kafka: stack.KafkaServer, postgres: stack.PostgresServer
) -> Iterator[tuple[stack.Up, stack.TestDatabase]]:
    """A system that uses the broker and the database of the test run, with names of its own."""
    database = postgres.new_database()
    own = uuid.uuid4().hex[:8]
    env = {f"KAFKA_{name}_TOPIC": f"{own}.{name.lower()}" for name in (*_TOPICS, *_LETTERS)}
    env |= {"KAFKA_BROKERS": kafka.brokers, "KAFKA_ASSEMBLY_CONSUMER_GROUP_ID": f"{own}-assembly", "TELEGRAM_CHAT_ID": "a-secret"}
    env |= {"ORDER_POSTGRES_DSN": database.dsn()} | {
        name: dsn for name, dsn in database.environment().items() if name != "ORDER_POSTGRES_DSN"
    }
    one = stack.Up(tmp_path_factory.mktemp("up"), env)
    try:
        one.wait_ready()
        yield one, database
    finally:
        assert one.process.stop(signal.SIGINT) == 0
        postgres.drop(database)


def test_servers_that_the_environment_names_are_used_and_none_is_started(
    up: tuple[stack.Up, stack.TestDatabase], kafka: stack.KafkaServer
) -> None:
    told = up[0].told
    assert not told["kafka"]["ours"]
    assert not told["postgres"]["ours"]
    assert told["kafka"]["brokers"] == kafka.brokers
    names = {process.name() for process in psutil.Process(up[0].process.pid).children(recursive=True)}
    assert not names & {"java", "postgres"}
    order = httpx.post(
        f"{told['functions']['orders']['url']}/orders", json={"user_id": "u", "items": [{"product_id": "p", "quantity": 1}]}, timeout=30
    )
    assert up[1].run("SELECT id FROM orders") == [[order.json()["id"]]]


def test_a_value_of_the_environment_is_shown_with_its_source_where_it_differs(up: tuple[stack.Up, stack.TestDatabase]) -> None:
    text = up[0].process.text
    assert "(environment, KAFKA_NOTIFICATION_DLQ_TOPIC) instead of order.notification.dlq (contracts/topics.yaml)" in text
    assert "-assembly (environment, KAFKA_ASSEMBLY_CONSUMER_GROUP_ID) instead of assembly-service (contracts/topics.yaml)" in text


def test_each_process_knows_its_own_database_role_and_no_secret_of_another(up: tuple[stack.Up, stack.TestDatabase]) -> None:
    seen = {name: process.environ() for name, process in up[0].children().items()}
    dsns = {name: sorted(key for key in env if key.endswith("_POSTGRES_DSN")) for name, env in seen.items()}
    own = {name: [function.dsn_setting] for name, function in functions.here().items()}
    assert own["order_on_assembled"] == ["ORDER_POSTGRES_DSN"]
    assert own["notify"] == ["NOTIFICATION_POSTGRES_DSN"]
    assert dsns == own | {"relay": ["RELAY_POSTGRES_DSN"], "source": []}
    assert {name for name, env in seen.items() if "KAFKA_BROKERS" in env} == {"source", "relay", "dlq_router"}
    assert {name for name, env in seen.items() if "TELEGRAM_CHAT_ID" in env} == {"notify"}


def test_status_says_where_everything_is_and_every_address_answers(up: tuple[stack.Up, stack.TestDatabase]) -> None:
    done = up[0].command("status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"kafka", "postgres", "functions", "sources", "relay"}
    assert {"orders", "assembly_on_payment", "order_on_assembled", "notify", "dlq_router"} <= set(found["functions"])
    assert set(found["functions"]) == set(functions.here())
    assert set(found["sources"]) == {consumer.source for _, consumer in topics.read().consumers()}
    for of in found["functions"].values():
        assert of["ready"] is True
        assert httpx.get(f"{of['url']}/ready", timeout=30).status_code == 200
    assert httpx.get(f"{found['relay']['url']}/health", timeout=30).status_code == 200
    for of in found["sources"].values():
        assert {"topic", "group", "lag", "state"} <= set(of)
        assert of["state"] == "running"
    host, _, port = found["kafka"]["brokers"].partition(":")
    dsn = urlsplit(found["postgres"]["dsn"])
    assert dsn.hostname is not None
    assert dsn.port is not None
    assert dsn.password == "***"  # a server of somebody else's: its password is not shown
    for address in ((host, int(port)), (dsn.hostname, dsn.port)):
        socket.create_connection(address, timeout=5).close()


def test_a_second_up_of_the_same_folder_is_refused_with_the_way_out(up: tuple[stack.Up, stack.TestDatabase]) -> None:
    done = up[0].command("up")
    assert done.returncode == 1
    assert f"runs with {up[0].home} already (process {up[0].process.pid})" in done.stderr
    assert "ORDERFLOW_HOME" in done.stderr


def test_status_names_what_is_not_ready_and_a_killed_process_comes_back(up: tuple[stack.Up, stack.TestDatabase]) -> None:
    notify = up[0].children()["notify"]
    notify.suspend()
    done = up[0].command("status", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["functions"]["notify"]["ready"] is False
    notify.kill()
    stack.eventually(lambda: up[0].told["functions"]["notify"].get("restarts") == 1, "notify to be started again")
    stack.eventually(lambda: up[0].command("status").returncode == 0, "everything to be ready")


def _orderflow(*arguments: str, home: Path, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    given = child.environment(ORDERFLOW_HOME=str(home)) | dict(env or {})
    return subprocess.run(stack.orderflow(*arguments), env=given, capture_output=True, text=True, check=False, timeout=100)


def test_status_says_clearly_when_nothing_runs(tmp_path: Path) -> None:
    done = _orderflow("status", home=tmp_path)
    assert done.returncode == 1
    assert "nothing runs" in done.stderr
    assert "make run" in done.stderr


def test_a_taken_port_is_named_with_the_process_that_holds_it_and_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = _orderflow("up", "--postgres-port", str(port), home=tmp_path, env={"KAFKA_BROKERS": "127.0.0.1:1"})
    assert done.returncode == 1
    assert f"port {port} (PostgreSQL) is taken by process {psutil.Process().pid} (" in done.stderr
    assert "--postgres-port" in done.stderr


def _only(folder: Path, *programs: str) -> str:
    """A PATH with these programs alone."""
    folder.mkdir()
    for name in programs:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return str(folder)


def test_a_missing_java_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = _only(tmp_path / "bin", "setpriv")
    done = _orderflow("up", *_free_ports(), home=tmp_path / "home", env={"PATH": path, "JAVA_HOME": ""})
    assert done.returncode == 1
    assert "Kafka needs Java 17 or later, and there is no `java`" in done.stderr
    assert "openjdk-17-jre-headless" in done.stderr


def test_a_java_that_is_too_old_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = _only(tmp_path / "bin", "setpriv", "sh")
    java = tmp_path / "bin" / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    done = _orderflow("up", *_free_ports(), home=tmp_path / "home", env={"PATH": path, "JAVA_HOME": ""})
    assert done.returncode == 1
    assert 'is openjdk version "11.0.2"' in done.stderr


def test_a_missing_maven_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = _only(tmp_path / "bin", "setpriv", "java")
    done = _orderflow("up", *_free_ports(), home=tmp_path / "home", env={"PATH": path, "JAVA_HOME": ""})
    assert done.returncode == 1
    assert "there is no `mvn`" in done.stderr
    assert "apt install maven" in done.stderr


def test_data_of_another_kafka_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    data = tmp_path / "home" / "kafka" / "log"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\n")
    (tmp_path / "home" / "kafka" / "version").write_text("3.9.0\n")
    (tmp_path / "home" / "kafka-jars").symlink_to(local_home.folder() / "kafka-jars")
    done = _orderflow("up", *_free_ports(), home=tmp_path / "home")
    assert done.returncode == 1
    assert "was written by 3.9.0, and this is 4.4.0" in done.stderr
    assert "make kafka-reset" in done.stderr


def test_a_broker_that_does_not_answer_is_named(tmp_path: Path) -> None:
    (port,) = child.free_ports(1)
    done = _orderflow("up", *_free_ports(), home=tmp_path / "home", env={"KAFKA_BROKERS": f"127.0.0.1:{port}"})
    assert done.returncode == 1
    assert f"Kafka at 127.0.0.1:{port} does not answer" in done.stderr


def test_every_wrong_setting_is_listed_before_anything_starts(tmp_path: Path) -> None:
    done = _orderflow("up", home=tmp_path, env={"KAFKA_BROKERS": "nonsense", "ASSEMBLY_DURATION": "soon"})
    assert done.returncode == 2
    assert "KAFKA_BROKERS" in done.stderr
    assert "ASSEMBLY_DURATION" in done.stderr


def _free_ports() -> list[str]:
    return stack.port_options(stack.run_of_ports())
