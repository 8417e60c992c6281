"""Kafka under Compose: its addresses, its settings, the tools on the path, and the one-shot that creates the topics of topics.yaml."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ops import home
from shared import topics
from tests.deploy import compose_file

# A stand-in for Kafka's own tool: it lists what `there` says, and writes down what it is to create.
TOOL = """#!/bin/bash
case " $* " in
  *" --list "*) cat "$FOLDER/there"; exit "$LISTING" ;;
  *" --create "*) echo "$*" >> "$FOLDER/created"; exit "$CREATING" ;;
esac
exit 64
"""
# What depends on where a broker runs, and not on what it is to do.
PLACE = {"process.roles", "node.id", "controller.listener.names", "inter.broker.listener.name", "listener.security.protocol.map"}


def kafka(environ: Mapping[str, str] | None = None) -> Any:
    return compose_file.services(compose_file.KAFKA, environ)["kafka"]


def listeners(environment: Mapping[str, str], name: str) -> dict[str, str]:
    return dict(one.split("://", 1) for one in environment[name].split(","))


@pytest.mark.parametrize("port", ["19092", "29092"])
def test_a_client_is_told_an_address_that_it_reaches_wherever_it_asks_from(port: str) -> None:
    service = kafka({} if port == "19092" else {"KAFKA_PORT": port})
    environment = service["environment"]
    advertised = listeners(environment, "KAFKA_ADVERTISED_LISTENERS")

    assert listeners(environment, "KAFKA_LISTENERS") == {"NETWORK": "0.0.0.0:9092", "HOST": "0.0.0.0:19092", "CONTROLLER": "localhost:9093"}
    assert advertised == {"NETWORK": "kafka:9092", "HOST": f"localhost:{port}"}
    assert (service["hostname"], service["ports"]) == ("kafka", [f"127.0.0.1:{port}:19092"])


def test_the_listeners_fit_together() -> None:
    environment = kafka()["environment"]
    protocols = dict(one.split(":") for one in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))

    assert protocols.keys() == listeners(environment, "KAFKA_LISTENERS").keys()
    assert (
        environment["KAFKA_CONTROLLER_QUORUM_VOTERS"]
        == f"{environment['KAFKA_NODE_ID']}@{listeners(environment, 'KAFKA_LISTENERS')['CONTROLLER']}"
    )
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] == "NETWORK"


def test_the_container_has_its_name_its_data_on_a_volume_and_kafkas_tools_on_the_path() -> None:
    service = kafka()

    assert (service["container_name"], service["volumes"]) == ("gobigtech-kafka", ["kafka-data:/var/lib/kafka/data"])
    assert service["environment"]["KAFKA_LOG_DIRS"] == "/var/lib/kafka/data"
    assert service["environment"]["PATH"].split(":")[0] == "/opt/kafka/bin"


def test_the_broker_is_set_as_the_local_one_is() -> None:
    lines = (home.CHECKOUT / "infra/kafka/broker.properties").read_text(encoding="utf-8").splitlines()
    local = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    settings = {
        key.removeprefix("KAFKA_").lower().replace("_", "."): value
        for key, value in kafka()["environment"].items()
        if key.startswith("KAFKA_")
    }

    shared = (settings.keys() & local.keys()) - PLACE
    assert {key: settings[key] for key in shared} == {key: local[key] for key in shared}
    assert settings["auto.create.topics.enable"] == "false"
    assert {key for key in local if key.endswith((".replication.factor", ".min.isr"))} <= shared


@pytest.fixture
def kafka_init(tmp_path: Path) -> Any:
    """kafka_init(there=…, environ=…) -> how the one-shot's script ended, and what it told a stand-in for kafka-topics.sh to create."""
    tool = tmp_path / "kafka-topics.sh"
    tool.write_text(TOOL, encoding="utf-8")
    tool.chmod(0o755)

    def run(there: str = "", environ: Mapping[str, str] | None = None, listing: int = 0, creating: int = 0) -> tuple[int, list[str]]:
        (tmp_path / "there").write_text(there, encoding="utf-8")
        service = compose_file.services(compose_file.KAFKA, environ)["kafka-init"]
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FOLDER": str(tmp_path), "LISTING": str(listing), "CREATING": str(creating)}
        done = subprocess.run([*service["entrypoint"], *service["command"]], env=env, capture_output=True, text=True, check=False)
        created = tmp_path / "created"
        return done.returncode, created.read_text(encoding="utf-8").splitlines() if created.exists() else []

    return run


def line(topic: topics.Topic, name: str | None = None) -> str:
    config = dict(topic.config) | {"min.insync.replicas": "1"}
    settings = " ".join(f"--config {key}={value}" for key, value in config.items())
    return (
        "--bootstrap-server kafka:9092 --create --if-not-exists --replication-factor 1"
        f" --topic {name or topic.name} --partitions {topic.partitions} {settings}"
    )


def test_the_one_shot_creates_every_topic_of_topics_yaml_with_its_partitions_and_settings(kafka_init: Any) -> None:
    assert kafka_init() == (0, [line(topic) for topic in topics.read().all()])


def test_the_one_shot_leaves_alone_what_is_there(kafka_init: Any) -> None:
    first, *others = topics.read().all()

    assert kafka_init(there=f"__consumer_offsets\n{first.name}\nx{others[0].name}\n") == (0, [line(topic) for topic in others])


def test_the_one_shot_and_the_processes_know_a_topic_by_the_name_that_the_environment_gives_it(kafka_init: Any) -> None:
    told = {topic.setting: f"other.{topic.name}" for topic in topics.read().all()}
    ours = [service for service in compose_file.services(environ=told).values() if "build" in service]

    assert kafka_init(environ=told) == (0, [line(topic, f"other.{topic.name}") for topic in topics.read().all()])
    assert all(told.items() <= service["environment"].items() for service in ours)


@pytest.mark.parametrize("failing", [{"listing": 1}, {"creating": 1}], ids=["list", "create"])
def test_the_one_shot_fails_when_kafka_does(kafka_init: Any, failing: dict[str, int]) -> None:
    code, created = kafka_init(**failing)

    assert (code, len(created)) == (1, 0 if "listing" in failing else 1)
