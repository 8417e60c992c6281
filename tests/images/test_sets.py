"""What is installed where: each process runs with the packages of its own set and no others, and the sets say what the lock says."""

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ops import child, home
from ops.images import sets
from tests import conftest, controls, stack
from tests.functions.test_dlq_router import PATH, environment, failed_record
from tests.images.conftest import own

FUNCTIONS = sorted(found.parent.name for found in home.CHECKOUT.glob("functions/*/main.py"))
SAMPLE = home.CHECKOUT / "template" / "orderflow" / "function" / "main.py"


def folder_of(of: sets.RequirementSet, folder: Path) -> Path:
    """A folder in which exactly the packages of a set can be imported."""
    folder.mkdir()
    for pin in of.whole():
        for file in metadata.files(pin.name) or ():
            top = file.parts[0]
            if top not in {"..", "__pycache__"} and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(metadata.distribution(pin.name).locate_file(top))))
    return folder


def alone(packages: Path, source: str) -> list[str]:
    """The command line of a function that sees these packages, this project and the standard library: -S leaves .venv's out."""
    path = [str(home.CHECKOUT), str(packages)]
    start = f"import sys; sys.path[:0] = {path!r}; from shared import server; sys.exit(server.main())"
    return [sys.executable, "-S", "-c", start, "--source", source]


@pytest.fixture
def serve(start_process: Any, tmp_path: Path) -> Iterator[Any]:
    """serve(set, source, env) -> a client of that function, which has the packages of the set alone."""
    clients: list[httpx.Client] = []

    def start(of: sets.RequirementSet, source: str, env: dict[str, str]) -> httpx.Client:
        (port,) = child.free_ports(1)
        command = [*alone(folder_of(of, tmp_path / "packages"), source), "--port", str(port)]
        process = start_process(command, env, f"http://{child.LOOPBACK}:{port}")
        process.wait_ready()
        clients.append(httpx.Client(base_url=process.url, timeout=30))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


def test_every_set_has_the_versions_and_hashes_of_the_lock() -> None:
    locked = {pin.name: (pin.version, pin.hashes) for pin in sets.pins((home.CHECKOUT / sets.LOCK).read_text(encoding="utf-8"))}
    found = {(of.file, pin.name): (pin.version, pin.hashes) for of in sets.every() for pin in of.pins()}
    assert len(found) > 50
    assert [] == [key for key, value in found.items() if locked.get(key[1]) != value]


def test_every_set_has_what_its_requirements_ask_for() -> None:
    missing = []
    for of in sets.every():
        wanted = re.findall(r"^([a-z][a-z0-9-]*)", (home.CHECKOUT / of.wanted).read_text(encoding="utf-8"), re.MULTILINE)
        missing += [(of.file, name) for name in wanted if name not in {pin.name for pin in of.whole()}]
    assert [] == missing


def test_no_function_but_the_one_for_dead_letters_has_a_broker_client() -> None:
    assert ["dlq_router"] == [name for name in FUNCTIONS if "confluent-kafka" in {pin.name for pin in sets.of_function(name).whole()}]


def test_a_function_has_an_http_client_only_if_it_calls_somebody_over_http() -> None:
    assert ["notify"] == [name for name in FUNCTIONS if "httpx" in {pin.name for pin in sets.of_function(name).whole()}]


def test_no_set_has_what_only_the_framework_s_own_server_needs() -> None:
    for of in sets.every():
        assert set() == {"gunicorn", "uvicorn-worker", "watchdog", "pip", "setuptools"} & {pin.name for pin in of.whole()}


@pytest.mark.parametrize(
    ("name", "payload"),
    [("assembly_on_payment", controls.paid), ("order_on_assembled", controls.assembled), ("notify", controls.paid)],
)
def test_a_consumer_handles_an_event_with_its_own_packages_alone(name: str, payload: Any, serve: Any, database: stack.TestDatabase) -> None:
    function = serve(sets.of_function(name), f"functions/{name}/main.py", own(name, database))
    event = controls.binary(payload())
    assert ["done", "duplicate"] == [function.post("/", **event).json()["outcome"] for _ in range(2)]
    assert 200 == function.get("/metrics").status_code


def test_notify_speaks_to_telegram_with_its_own_packages_alone(serve: Any, database: stack.TestDatabase) -> None:
    away = {"TELEGRAM_ENABLED": "true", "TELEGRAM_BOT_TOKEN": "t", "TELEGRAM_CHAT_ID": "1", "TELEGRAM_URL": "https://127.0.0.1:9"}
    function = serve(sets.of_function("notify"), "functions/notify/main.py", own("notify", database) | away)
    assert 503 == function.post("/", **controls.binary(controls.paid())).status_code


def test_orders_takes_an_order_with_its_own_packages_alone(serve: Any, database: stack.TestDatabase) -> None:
    function = serve(sets.of_function("orders"), "functions/orders/main.py", own("orders", database))
    placed = function.post("/orders", json={"user_id": "u", "items": [{"product_id": "p", "quantity": 1}]})
    assert (201, 200) == (placed.status_code, function.get("/openapi.json").status_code)


def test_dlq_router_writes_a_letter_to_kafka_with_its_own_packages_alone(
    serve: Any, database: stack.TestDatabase, kafka_brokers: str, make_topic: conftest.MakeTopic
) -> None:
    settings = environment(kafka_brokers, make_topic(), own("dlq_router", database))
    function = serve(sets.of_function("dlq_router"), "functions/dlq_router/main.py", settings)
    assert "kafka" == function.post(PATH, json=failed_record()).json()["store"]


def test_the_template_s_sample_is_a_consumer_that_needs_no_packages_of_its_own(
    serve: Any, database: stack.TestDatabase, tmp_path: Path
) -> None:
    database.run("CREATE TABLE sample_inbox_events (LIKE assembly_inbox_events INCLUDING ALL)")
    copied = tmp_path / "functions" / "sample" / "main.py"
    copied.parent.mkdir(parents=True)
    copied.write_bytes(SAMPLE.read_bytes())
    function = serve(sets.BASE, str(copied), {"SAMPLE_POSTGRES_DSN": database.dsn()})
    event = controls.binary(controls.paid())
    assert ["done", "duplicate"] == [function.post("/", **event).json()["outcome"] for _ in range(2)]


@pytest.mark.parametrize("module", ["connectors.kafka_source", "connectors.outbox_relay"])
def test_a_connector_starts_with_its_own_packages_alone(module: str, start_process: Any, tmp_path: Path) -> None:
    start = f"import sys, runpy; sys.path[:0] = {[str(home.CHECKOUT), str(folder_of(sets.CONNECTORS, tmp_path / 'packages'))]!r}"
    process = start_process([sys.executable, "-S", "-c", f"{start}; runpy.run_module({module!r}, run_name='__main__')", "--help"])
    assert (0, True) == (process.wait(), f"python -m {module}" in process.text)


@pytest.mark.parametrize("command", ["migrate", "topics", "dlq", "outbox", "replay", "status"])
def test_the_command_starts_with_its_own_packages_alone(command: str, start_process: Any, tmp_path: Path) -> None:
    start = f"import sys; sys.path[:0] = {[str(home.CHECKOUT), str(folder_of(sets.COMMAND, tmp_path / 'packages'))]!r}"
    process = start_process([sys.executable, "-S", "-c", f"{start}; from ops import command; command.main()", command, "--help"])
    assert (0, True) == (process.wait(), f"Usage: orderflow {command}" in process.text)


def test_the_template_starts_the_same_process_as_the_image() -> None:
    folder = home.CHECKOUT / "template" / "orderflow"
    told = yaml.safe_load((folder / "template.yml").read_text(encoding="utf-8"))["fprocess"]
    assert [told] == re.findall(r'fprocess="([^"]+)"', (folder / "Dockerfile").read_text(encoding="utf-8"))


def test_the_layer_that_every_image_shares_is_made_by_the_same_words() -> None:
    shared = re.compile(r"^RUN groupadd.*?(?=^[A-Z#])", re.MULTILINE | re.DOTALL)
    files = [home.CHECKOUT / "template" / "orderflow" / "Dockerfile", home.CHECKOUT / "infra" / "images" / "Dockerfile"]
    assert 1 == len({match for file in files for match in shared.findall(file.read_text(encoding="utf-8"))})
