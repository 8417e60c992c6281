"""The images, started as a cluster starts them: as nobody in particular, with nothing to write to but /tmp, and sent events."""

import json
import os
import threading
from typing import Any

import httpx
import pytest

from ops import home
from ops.deployments import functions
from ops.images import build, sets
from ops.images.build import DockerFailed
from tests import conftest, controls, stack
from tests.functions.test_dlq_router import PATH, environment, failed_record
from tests.images.conftest import BASE, Start, needs_images, once, own, tag

pytestmark = needs_images

NAMES = [image.name for image in build.images()]
FUNCTIONS = functions.functions()
SERVICES = [function.service for function in FUNCTIONS]
CONSUMERS = {"assembly-on-payment": controls.paid, "order-on-assembled": controls.assembled, "notify": controls.paid}
WATCHDOG_BYTES = 11_500_000  # of-watchdog 0.11.6
SOURCES = home.CHECKOUT / "infra" / "knative" / "sources.yaml"
LOOK = """
import importlib.metadata as metadata, json, os, pathlib, sys
def may(path):
    try:
        pathlib.Path(path, "written").touch()
    except OSError:
        return False
    return True
code = [*pathlib.Path("/home/app").rglob("*.py"), *pathlib.Path("/opt").rglob("*.py")]
cached = lambda path: path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
stdlib = [pathlib.Path(module.__file__) for module in (json, pathlib, metadata)]
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "writable": [path for path in ("/", "/home/app", "/opt/venv", "/usr/bin", "/tmp") if may(path)],
    "packages": sorted(found.name.lower().replace("_", "-") for found in metadata.distributions()),
    "uncompiled": [str(path) for path in [*code, *stdlib] if not cached(path).exists()],
}))
"""


@pytest.fixture(scope="module", params=NAMES)
def looked_at(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """An image, and what a process in it sees."""
    return request.param, json.loads(once(request.param, "python", "-c", LOOK))


def test_an_image_runs_as_nobody_in_particular(looked_at: tuple[str, dict[str, Any]]) -> None:
    assert [10001, 10001] == looked_at[1]["ids"]


def test_an_image_writes_to_nothing_but_tmp(looked_at: tuple[str, dict[str, Any]]) -> None:
    assert ["/tmp"] == looked_at[1]["writable"]  # noqa: S108


def test_an_image_holds_the_packages_of_its_set_and_no_others(looked_at: tuple[str, dict[str, Any]]) -> None:
    name, seen = looked_at
    folder = next((function.name for function in FUNCTIONS if function.service == name), "")
    of = sets.of_function(folder) if folder else {"connectors": sets.CONNECTORS, "command": sets.COMMAND}[name]
    metadata = {"orderflow"} if name == "command" else set()
    assert sorted({pin.name for pin in of.whole()} | metadata) == [name.replace(".", "-") for name in seen["packages"]]


def test_everything_in_an_image_is_compiled(looked_at: tuple[str, dict[str, Any]]) -> None:
    assert [] == looked_at[1]["uncompiled"]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_adds_to_its_base_no_more_than_was_promised(name: str) -> None:
    sizes = [int(build.docker("image", "inspect", "--format", "{{.Size}}", of)) for of in (tag(name), BASE, os.environ["WATCHDOG_IMAGE"])]
    own = sizes[0] - sizes[1]
    if name in SERVICES:  # as if the watchdog were the real one, whatever stands in for it here
        own += WATCHDOG_BYTES - sizes[2]
    most = {"dlq-router": 80, "connectors": 80, "command": 150}.get(name, 60)
    assert own <= most * 1_000_000


@pytest.mark.parametrize("name", CONSUMERS)
def test_a_consumer_s_image_handles_events_behind_a_watchdog(name: str, start: Start, database: stack.TestDatabase) -> None:
    container = start(name, own(name, database))
    container.wait_ready()
    event = controls.binary(CONSUMERS[name]())
    assert ["done", "duplicate"] == [httpx.post(container.url, **event, timeout=30).json()["outcome"] for _ in range(2)]
    assert 422 == httpx.post(container.url, **controls.binary(CONSUMERS[name](), b"{"), timeout=30).status_code


@pytest.mark.parametrize("name", CONSUMERS)
def test_a_consumer_s_image_serves_alone_where_no_watchdog_is_wanted(name: str, start: Start, database: stack.TestDatabase) -> None:
    container = start(name, own(name, database), "python", "-m", "shared.server")
    container.wait_ready("/ready")
    assert "done" == httpx.post(container.url, **controls.binary(CONSUMERS[name]()), timeout=30).json()["outcome"]


def test_the_image_of_orders_takes_an_order(start: Start, database: stack.TestDatabase) -> None:
    container = start("orders", own("orders", database))
    container.wait_ready()
    body = {"user_id": "u", "items": [{"product_id": "p", "quantity": 1}]}
    assert 201 == httpx.post(f"{container.url}/orders", json=body, timeout=30).status_code


def test_the_image_of_dlq_router_writes_a_letter_to_kafka(
    start: Start, database: stack.TestDatabase, kafka_brokers: str, make_topic: conftest.MakeTopic
) -> None:
    container = start("dlq-router", environment(kafka_brokers, make_topic(), own("dlq-router", database)))
    container.wait_ready()
    answer = httpx.post(container.url + PATH, json=failed_record(), timeout=60)
    assert (200, "kafka") == (answer.status_code, answer.json()["store"])


def test_a_function_s_log_lines_leave_its_container_as_the_json_that_they_are(start: Start, database: stack.TestDatabase) -> None:
    container = start("notify", own("notify", database))
    container.wait_ready()
    httpx.post(container.url, **controls.binary(controls.paid()), timeout=30)
    found = stack.eventually(lambda: [line for line in container.log.splitlines() if "notification: " in line], "the line")
    assert "order.payment.completed" == json.loads(found[0])["event_type"]


def test_sigterm_under_load_loses_no_request_and_hangs_none(start: Start, database: stack.TestDatabase) -> None:
    container = start("assembly-on-payment", own("assembly-on-payment", database))
    container.wait_ready()
    statuses: list[int] = []
    ending, told = threading.Event(), threading.Event()

    def send() -> None:
        """Events one after another, until the replica says that it is not ready: then a balancer sends it no more."""
        with httpx.Client(timeout=20) as client:
            while not told.is_set():
                statuses.append(client.post(container.url, **controls.binary(controls.paid())).status_code)
                if ending.is_set() and client.get(f"{container.url}/_/ready").status_code == 503:
                    told.set()

    senders = [threading.Thread(target=send) for _ in range(8)]
    for sender in senders:
        sender.start()
    stack.eventually(lambda: len(statuses) > 100, "a hundred answers")
    container.terminate()
    ending.set()
    for sender in senders:
        sender.join(stack.PATIENCE_S)
    assert ({200}, True) == (set(statuses), told.is_set())
    stack.eventually(lambda: container.state("Running") == "false", "its end")
    assert "0" == container.state("ExitCode")
    assert [[len(statuses)]] == database.run("SELECT count(*) FROM assembly_inbox_events")


def test_a_function_with_a_wrong_setting_ends_its_container(start: Start) -> None:
    container = start("notify", {"LOCK_TIMEOUT": "soon"})
    stack.eventually(lambda: container.state("Running") == "false", "its end")
    assert ("1", True) == (container.state("ExitCode"), any("LOCK_TIMEOUT:" in line for line in container.log.splitlines()))


def test_the_connectors_image_reads_the_sources_manifests() -> None:
    sinks = {"SINK_URL_TEMPLATE": "http://127.0.0.1:9/function/{name}"}
    command = ["python", "-m", "connectors.kafka_source", "--manifest", "/sources.yaml", "--check"]
    assert "" == once("connectors", *command, settings=sinks, mounts=[f"{SOURCES}:/sources.yaml:ro"])


def test_the_connectors_image_runs_the_relay(start: Start, database: stack.TestDatabase, kafka_brokers: str) -> None:
    settings = {"RELAY_POSTGRES_DSN": database.dsn("orderflow_relay"), "KAFKA_BROKERS": kafka_brokers}
    relay = start("connectors", settings, "sh", "-c", 'exec python -m connectors.outbox_relay --control-port "$PORT"')
    relay.wait_ready("/status")
    relay.terminate()
    stack.eventually(lambda: relay.state("Running") == "false", "its end")
    assert "0" == relay.state("ExitCode")


def test_the_command_image_migrates_a_database(postgres: stack.PostgresServer) -> None:
    found = postgres.new_database()
    assert "is up to date" in once("command", "orderflow", "migrate", settings={"ORDER_POSTGRES_DSN": found.dsn()})


def test_the_command_image_lists_the_topics_of_a_broker(kafka_brokers: str, make_topic: conftest.MakeTopic) -> None:
    topic = make_topic()
    assert topic in once("command", "orderflow", "topics", "list", settings={"KAFKA_BROKERS": kafka_brokers})


def test_the_command_image_knows_its_version_and_holds_no_server() -> None:
    assert once("command", "orderflow", "--version").startswith("orderflow ")
    with pytest.raises(DockerFailed, match="there is no PostgreSQL"):
        once("command", "python", "-c", "from ops import postgres; postgres.programs()")
