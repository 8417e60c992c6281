"""docker-compose.yml and docker-compose.kafka.yml: valid for Compose 1.29 and v2, whole, and each process with no more than it needs."""

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from connectors.kafka_source import manifest
from ops import child, home, roles
from ops.deployments import functions
from shared import topics
from shared.config import Settings, seconds
from tests.deploy import compose_file
from tests.source import sinks

FILES = (compose_file.ALL, compose_file.KAFKA, compose_file.BESIDE_A_GATEWAY)
COMPOSE = [words for words in (["docker-compose"], ["docker", "compose"]) if shutil.which(words[0])]
SERVICES = compose_file.services()
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
RUNNING = {name: service for name, service in SERVICES.items() if "restart" in service}
FUNCTIONS = {function.service: function for function in functions.functions()}
DELIVERED = {name for name, function in FUNCTIONS.items() if function.token}
NETWORK = "gobigtech-network"
# What a process of ours takes from the environment beside its settings.
BESIDE_SETTINGS = {"ORDERFLOW_HOME", "SOURCE_CONTROL_URL", *(f"{role.name.upper()}_PASSWORD" for role in roles.read())}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(home.CHECKOUT)))
def test_a_file_has_no_field_or_form_that_compose_1_29_or_v2_refuses(path: Path) -> None:
    assert compose_file.services(path).keys() > set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(home.CHECKOUT)))
@pytest.mark.parametrize("compose", COMPOSE, ids=" ".join)
def test_the_compose_of_this_machine_takes_a_file(compose: list[str], path: Path) -> None:
    if subprocess.run([*compose, "version"], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no {' '.join(compose)} on this machine")

    done = subprocess.run([*compose, "-f", str(path), "config"], capture_output=True, text=True, check=False, env=child.environment())

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("first", [compose_file.ALL, compose_file.KAFKA], ids=lambda path: path.name)
def test_one_file_goes_on_with_the_broker_and_the_network_of_the_other(first: Path) -> None:
    of_all, alone = compose_file.read(), compose_file.read(compose_file.KAFKA)

    assert {name: of_all["services"][name] for name in alone["services"]} == alone["services"]
    assert (of_all["networks"], compose_file.read(first)["networks"]) == (alone["networks"], {NETWORK: {"name": NETWORK}})
    assert alone["volumes"].items() <= of_all["volumes"].items()


def test_every_service_is_on_that_network() -> None:
    assert {name: service["networks"] for name, service in SERVICES.items()} == {name: [NETWORK] for name in SERVICES}


def test_every_port_is_published_on_the_loopback_interface_alone() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "kafka": ["127.0.0.1:19092:19092"],
        "postgres": ["127.0.0.1:15432:5432"],
        "orders": ["127.0.0.1:8080:8080"],
    }


def test_what_a_service_waits_for_can_come() -> None:
    for service in SERVICES.values():
        for name, waits in service.get("depends_on", {}).items():
            on = SERVICES[name]
            assert {
                "service_healthy": "healthcheck" in on and "restart" in on,
                "service_completed_successfully": "restart" not in on and "profiles" not in on,
            }[waits["condition"]], name


def test_everything_that_runs_is_there_before_the_source() -> None:
    def before(name: str) -> set[str]:
        direct = SERVICES[name].get("depends_on", {})
        return {*direct, *itertools.chain.from_iterable(map(before, direct))}

    assert before("source") == SERVICES.keys() - {"source", "orderflow"}


def test_every_long_running_service_restarts_has_a_check_of_its_health_a_limit_and_time_to_end() -> None:
    assert RUNNING.keys() == SERVICES.keys() - {"kafka-init", "migrate", "orderflow"}
    for name, service in RUNNING.items():
        assert {"healthcheck", "mem_limit", "stop_grace_period", "logging"} <= service.keys(), name


def test_a_process_of_ours_has_no_rights_and_writes_nowhere_but_to_tmp() -> None:
    wanted = {"user": "10001:10001", "read_only": True, "tmpfs": ["/tmp"]}  # noqa: S108  each container's own
    wanted |= {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}

    assert {name: {key: service.get(key) for key in wanted} for name, service in OURS.items()} == dict.fromkeys(OURS, wanted)


def test_a_process_has_time_to_drain_before_it_is_killed() -> None:
    takes = float(Settings.model_fields["shutdown_timeout"].default)

    for name in OURS.keys() & RUNNING.keys():
        service = SERVICES[name]
        assert seconds(service["stop_grace_period"]) > takes + seconds(service["environment"].get("DRAIN_DELAY", "0s")), name


def test_every_function_is_a_service_and_says_the_server_itself() -> None:
    found = {name: service for name, service in SERVICES.items() if service.get("command") == ["python", "-m", "shared.server"]}

    assert found.keys() == FUNCTIONS.keys()
    assert {name: service["build"]["args"]["FUNCTION"] for name, service in found.items()} == {
        service: function.name for service, function in FUNCTIONS.items()
    }


def test_each_process_logs_in_with_a_role_of_its_own_and_with_the_password_that_migrate_gives_it() -> None:
    told = {f"{role.name.upper()}_PASSWORD": f"of-{role.name}" for role in roles.read()} | {"ORDER_PASSWORD": "of-the-owner"}
    found = compose_file.services(environ=told)
    expected = {function.service: (function.dsn_setting, function.role) for function in FUNCTIONS.values()} | {
        "relay": ("RELAY_POSTGRES_DSN", "orderflow_relay"),
        "migrate": ("ORDER_POSTGRES_DSN", "order_user"),
        "orderflow": ("ORDER_POSTGRES_DSN", "order_user"),
    }

    assert {
        name: {key: value for key, value in service["environment"].items() if key.endswith("_DSN")}
        for name, service in found.items()
        if any(key.endswith("_DSN") for key in service["environment"])
    } == {
        name: {setting: f"postgresql://{role}:{told.get(f'{role.upper()}_PASSWORD', 'of-the-owner')}@postgres:5432/orders"}
        for name, (setting, role) in expected.items()
    }
    assert told.items() - {("ORDER_PASSWORD", "of-the-owner")} <= found["migrate"]["environment"].items()
    assert found["postgres"]["environment"]["POSTGRES_PASSWORD"] == "of-the-owner"


def test_without_a_word_the_passwords_are_those_of_a_laptop() -> None:
    given = {key: value for key, value in SERVICES["migrate"]["environment"].items() if key.endswith("_PASSWORD")}

    assert given == {f"{role.name.upper()}_PASSWORD": role.password({}) for role in roles.read()}


def test_every_secret_is_a_file_that_is_there_and_that_who_has_it_reads() -> None:
    declared = compose_file.read()["secrets"]

    for name, service in SERVICES.items():
        files = {value for key, value in service.get("environment", {}).items() if key.endswith("_FILE")}
        assert files == {compose_file.SECRETS + secret for secret in service.get("secrets", [])}, name
    assert {secret for service in SERVICES.values() for secret in service.get("secrets", [])} == declared.keys()
    assert [name for name, secret in declared.items() if not (home.CHECKOUT / secret["file"]).is_file()] == []


def test_the_delivery_token_is_wanted_by_every_function_but_the_public_one_and_known_to_who_delivers() -> None:
    has = {name for name, service in SERVICES.items() if "DELIVERY_TOKEN_FILE" in service.get("environment", {})}

    assert has == DELIVERED | {"source", "orderflow"}


def test_every_name_in_the_environment_of_a_process_of_ours_is_a_setting() -> None:
    catalogue = topics.read()
    known = {name.upper() for name in Settings.model_fields} | BESIDE_SETTINGS
    known |= {topic.setting for topic in catalogue.all()} | {consumer.setting for _, consumer in catalogue.consumers()}
    known |= {function.dsn_setting for function in FUNCTIONS.values()} | {"RELAY_POSTGRES_DSN"}

    assert {name: [key for key in service["environment"] if key.removesuffix("_FILE") not in known] for name, service in OURS.items()} == {
        name: [] for name in OURS
    }


def test_every_image_can_be_another() -> None:
    raw = yaml.safe_load(compose_file.ALL.read_text(encoding="utf-8"))["services"]
    images = {text for service in raw.values() for text in [service["image"], *_images_of_build(service)]}

    assert [image for image in images if not re.match(r"\$\{[A-Z_]+:-[^}]+\}", image)] == []
    assert {
        service["image"]
        for service in compose_file.services(environ={"REGISTRY": "r.example/o", "TAG": "7"}).values()
        if "build" in service
    } == {f"r.example/o/{name}:7" for name in [*FUNCTIONS, "connectors", "command"]}


def _images_of_build(service: dict[str, Any]) -> Iterator[str]:
    return (value for key, value in service.get("build", {}).get("args", {}).items() if key.endswith("_IMAGE"))


def test_what_an_image_is_built_from_is_in_the_checkout() -> None:
    for name, service in OURS.items():
        build = service["build"]
        paths = [
            build["dockerfile"],
            *(value for key, value in build["args"].items() if key in {"HANDLER", "SHARED", "CONTRACTS", "TEMPLATE"}),
        ]
        assert [path for path in paths if not (home.CHECKOUT / build["context"] / path).exists()] == [], name


def test_the_source_takes_its_settings_and_finds_a_service_for_every_sink(tmp_path: Path) -> None:
    service = SERVICES["source"]
    mounted, inside, _ = service["volumes"][0].split(":")
    (tmp_path / "orderflow-delivery-token").write_text("t" * 32, encoding="utf-8")
    environment = {key: value.replace(compose_file.SECRETS, f"{tmp_path}/") for key, value in service["environment"].items()}
    python, *words = [word.replace(inside, str(home.CHECKOUT / mounted)) for word in service["command"]]

    checked = subprocess.run(
        [sys.executable, *words, "--check"],
        env=child.environment(**environment),
        capture_output=True,
        text=True,
        check=False,
        cwd=home.CHECKOUT,
    )

    hosts = {
        urlsplit(service["environment"]["SINK_URL_TEMPLATE"].format(name=ref.name)).netloc
        for document in manifest.read(home.CHECKOUT / mounted)
        for ref in (document.spec.sink.ref, document.spec.delivery.dead_letter_sink.ref)
        if ref
    }
    assert (python, checked.returncode) == ("python", 0), checked.stderr
    assert hosts == {f"{name}:8080" for name, function in FUNCTIONS.items() if not function.public}


@pytest.mark.parametrize(("healthy", "code"), [(True, 0), (False, 1)])
def test_a_process_of_ours_is_healthy_when_its_health_answers_200(healthy: bool, code: int) -> None:
    ((*words, script),) = {tuple(service["healthcheck"]["test"]) for service in OURS.values() if "healthcheck" in service}
    server = sinks.Sink()
    server.healthy = healthy

    asked = subprocess.run([sys.executable, "-c", script.replace("8080", str(server.port))], capture_output=True, text=True, check=False)
    server.close()

    assert (words, asked.returncode, len(server.health_checks)) == (["CMD", "python", "-c"], code, 1), asked.stderr


def test_the_page_names_services_variables_and_targets_that_are_there() -> None:
    page = (home.CHECKOUT / "docs" / "compose.md").read_text(encoding="utf-8")
    variables = set(re.findall(r"\$\{([A-Z_]+):-", compose_file.ALL.read_text(encoding="utf-8")))
    named = " ".join(re.findall(r"(?:--no-deps|restart) ([a-z -]+)$", page, re.MULTILINE)).split()

    assert set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*_(?:IMAGE|PORT|PASSWORD|FILE)\b", page)) <= variables
    assert {"source", "relay"} <= set(named) <= RUNNING.keys()
    assert set(re.findall(r"--scale ([a-z-]+)=", page)) <= RUNNING.keys()
