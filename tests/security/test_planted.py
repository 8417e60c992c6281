"""Secrets and persons are planted everywhere, everything is made to fail, and then all that anybody can read is searched for them."""

import json
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from ops import child, home, roles
from shared import topics
from tests import conftest, controls, stack
from tests.functions.telegram_server import TelegramServer

# Everything is started once, and a score of commands: on a busy machine that takes a while.
pytestmark = pytest.mark.timeout(300)

PAID, ASSEMBLED = "order.payment.completed", "order.assembly.completed"


def planted(what: str) -> str:
    return f"planted-{what}-{secrets.token_hex(16)}"


@dataclass
class Planted:
    """A whole system that knows secrets and persons; what commands and addresses of it have said."""

    up: stack.Up
    telegram: TelegramServer
    secrets: dict[str, str]
    persons: dict[str, str]
    said: dict[str, str] = field(default_factory=dict)  # to whom it may concern: neither secrets nor persons
    shown: dict[str, str] = field(default_factory=dict)  # to an operator who asks for a record: no secrets

    @property
    def told(self) -> dict[str, Any]:
        """The run file."""
        return self.up.told

    def command(self, *arguments: str, show: bool = False, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a command, as the environment of the system has it and `env`; note what it said."""
        given = child.environment(**self.up.env | env)
        done = subprocess.run(
            stack.orderflow(*arguments), env=given, cwd=home.CHECKOUT, capture_output=True, text=True, check=False, timeout=100
        )
        (self.shown if show else self.said)[f"{len(self.said)} orderflow {' '.join(arguments)}"] = done.stdout + done.stderr
        return done

    def ask(self, url: str, **request: Any) -> httpx.Response:
        """Ask an address of it; note what it answers."""
        answer = httpx.request(request.pop("method", "GET"), url, timeout=30, **request)
        self.said[f"{len(self.said)} {url}"] = f"{answer.headers} {answer.text}"
        return answer


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """Everything by `orderflow up`, with LOG_LEVEL=debug and a Telegram that repeats the URL in what it answers."""
    folder = tmp_path_factory.mktemp("planted")
    hidden = {name: planted(name) for name in ("token", "telegram", "sasl", "aws-id", "aws-secret")}
    hidden |= {role.name: planted(role.name) for role in roles.read()}
    persons = {name: planted(name) for name in ("user", "product", "chat")}
    env = {
        "LOG_LEVEL": "debug", "LOG_FORMAT": "json", "ASSEMBLY_DURATION": "200ms", "KAFKA_RETRY_MAX_ATTEMPTS": "1",
        "KAFKA_RETRY_BACKOFF_BASE": "100ms", "TELEGRAM_ENABLED": "true", "TELEGRAM_CHAT_ID": persons["chat"],
        "KAFKA_SASL_USERNAME": "somebody", "KAFKA_SASL_PASSWORD": hidden["sasl"],
        "AWS_ACCESS_KEY_ID": hidden["aws-id"], "AWS_SECRET_ACCESS_KEY": hidden["aws-secret"],
    }  # fmt: skip
    by_file = {"DELIVERY_TOKEN": "token", "TELEGRAM_BOT_TOKEN": "telegram", "ORDERFLOW_RELAY_PASSWORD": "orderflow_relay"}
    for name, of in by_file.items():
        file = folder / name
        file.write_text(hidden[of], encoding="utf-8")
        env[f"{name}_FILE"] = str(file)
    env |= {f"{role.name.upper()}_PASSWORD": hidden[role.name] for role in roles.read() if role.name != "orderflow_relay"}
    with TelegramServer() as telegram:
        up = stack.Up(folder, env | {"TELEGRAM_URL": telegram.url})
        made = Planted(up, telegram, hidden, persons)
        try:
            up.wait_ready()
            misuse(made, folder)
            yield made
        finally:
            up.process.stop()


def misuse(system: Planted, folder: Path) -> None:
    """Do what makes something fail, and ask everybody how they are."""
    urls = {name: of["url"] for name, of in system.told["functions"].items()}
    token, person = {"authorization": f"Bearer {system.secrets['token']}"}, system.persons["user"]
    refusal = f"no such method /bot{system.secrets['telegram']}/sendMessage"
    system.telegram.answers = [
        (400, {"description": f"Bad Request: {refusal} for {person}"}), (500, {"description": refusal}), (401, {"description": refusal}),
    ]  # fmt: skip

    placed = httpx.post(
        f"{urls['orders']}/orders",
        json={"user_id": person, "items": [{"product_id": system.persons["product"], "quantity": 1}]},
        timeout=30,
    )
    assert placed.status_code == 201
    bad = {"user_id": person, "items": [{"product_id": system.persons["product"], "quantity": -1}], "password": system.secrets["token"]}
    system.ask(f"{urls['orders']}/orders", method="POST", json=bad)
    system.ask(f"{urls['orders']}/orders", method="POST", content=json.dumps(bad)[:-5], headers={"content-type": "application/json"})
    for name in ("notify", "assembly_on_payment", "order_on_assembled"):
        given = controls.binary(controls.paid(user_id=person))
        system.ask(
            urls[name], method="POST", **given | {"headers": given["headers"] | {"authorization": f"Bearer {system.secrets['token']}x"}}
        )
        broken = controls.binary(controls.without(controls.paid(user_id=person), "amount", "order_id"))
        system.ask(urls[name], method="POST", **broken | {"headers": broken["headers"] | token})
    poison = Producer(stack.CLIENT | {"bootstrap.servers": system.told["kafka"]["brokers"]})
    poison.produce(ASSEMBLED, json.dumps(controls.assembled(user_id=person, event_version=7)).encode())
    poison.produce(PAID, f'{{"user_id": "{person}", "amount": '.encode())
    assert poison.flush(stack.PATIENCE_S) == 0
    stack.eventually(lambda: len(letters(system)) >= 4, "the letters")

    for url in urls.values():
        for path in ("/health", "/ready", "/metrics", "/no/such/path"):
            system.ask(url + path)
    for part in ("source", "relay"):
        for path in ("/health", "/ready", "/metrics", "/status", "/sources"):
            system.ask(system.told[part]["url"] + path)

    nowhere = "postgresql://order_user:{}@127.0.0.1:9/orders"
    running = {"ORDER_POSTGRES_DSN": system.told["postgres"]["dsn"], "KAFKA_BROKERS": system.told["kafka"]["brokers"]}
    lines = ["status", "status --json", "outbox list", "sources list", "contracts check", "dlq groups", "dlq list --json", "doctor"]
    shown = [f"dlq show {letter['letter_id']}" for letter in letters(system)]
    wrong = system.secrets["token"]
    other = {"ORDER_POSTGRES_DSN": system.told["postgres"]["dsn"].replace("order_password", wrong)}
    failing: list[tuple[int, str, dict[str, str]]] = [
        (1, "migrate", other),
        (1, "migrate", {"ORDER_POSTGRES_DSN": nowhere.format(wrong)}),
        (2, "migrate", {"ORDER_POSTGRES_DSN": nowhere.format(f"{wrong}/x")}),
        (1, "up", other | {"ORDERFLOW_HOME": str(folder / "second")} | running_kafka(system)),
        (2, "up", {"ORDERFLOW_HOME": str(folder / "third"), "ORDER_POSTGRES_DSN": nowhere.format(f"{wrong}#")}),
        (1, "dlq archive", running | {"DLQ_ARCHIVE_BUCKET": "b", "DLQ_ARCHIVE_ENDPOINT": "http://127.0.0.1:9"}),
    ]
    with ThreadPoolExecutor(4) as several:
        ended = several.map(lambda of: system.command(*of[1].split(), **of[2]).returncode, failing)
        list(several.map(lambda line: system.command(*line.split(), show=line in shown, **running), [*lines, *shown]))
        assert [code for code, _, _ in failing] == list(ended)


def running_kafka(system: Planted) -> dict[str, str]:
    return {"KAFKA_BROKERS": system.told["kafka"]["brokers"], "ORDERFLOW_PORT_BASE": str(stack.run_of_ports().base)}


def records(system: Planted) -> list[bytes]:
    """Everything on every topic: key, value and headers."""
    names = [topic.name for topic in topics.read().all()]
    consumer = Consumer(
        stack.CLIENT | {"bootstrap.servers": system.told["kafka"]["brokers"], "group.id": "looking", "enable.auto.commit": False}
    )
    try:
        found = consumer.list_topics(timeout=stack.PATIENCE_S).topics
        places = [TopicPartition(name, n, 0) for name in names for n in found[name].partitions]
        left = sum(consumer.get_watermark_offsets(place, timeout=stack.PATIENCE_S)[1] for place in places)
        consumer.assign(places)
        return (
            [repr((of.topic(), of.key(), of.value(), of.headers())).encode() for of in consumer.consume(left, stack.PATIENCE_S)]
            if left
            else []
        )
    finally:
        consumer.close()


def letters(system: Planted) -> list[dict[str, Any]]:
    """The letters that the index has."""
    return [{"letter_id": row} for row in rows(system, "SELECT letter_id FROM dlq_letters")]


def rows(system: Planted, sql: str) -> list[str]:
    """Rows of its database, as its owner sees them, a text each."""
    from shared import config, database

    found = database.Database(system.told["postgres"]["dsn"], settings=config.Settings(), application="looking")
    try:
        return [" ".join(map(str, row)) if len(row) > 1 else str(row[0]) for row in found.transact(lambda tx: tx.run(sql))]
    finally:
        found.close()


def logs(system: Planted) -> dict[str, str]:
    """Every log file of it, and of those that could not start."""
    folder = system.up.home.parent
    found = [*folder.glob("*.log"), *folder.glob("*/logs/*.log")]
    assert len(found) > len(system.up.children())
    return {str(file.relative_to(folder)): file.read_text("utf-8", "replace") for file in found}


def assert_without(places: dict[str, str], hidden: dict[str, str]) -> None:
    assert places
    assert [] == [(where, name) for where, text in places.items() for name, value in hidden.items() if value in text]


def test_everything_that_was_to_fail_did(system: Planted) -> None:
    """Without this the rest would find nothing in nothing."""
    everything = " ".join([*logs(system).values(), *system.said.values()])
    for said in ("Telegram", "unauthorized", "a record became a letter", "a record failed for good", "password authentication failed"):
        assert said in everything, said
    assert any("***" in text for text in logs(system).values())


def test_no_secret_is_in_a_log_an_answer_or_what_a_command_prints(system: Planted) -> None:
    assert_without(logs(system) | system.said | system.shown, system.secrets)


def test_no_secret_is_on_a_topic_or_in_a_table(system: Planted) -> None:
    tables = rows(system, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'")
    assert {"orders", "order_outbox_events", "dlq_letters"} <= set(tables)
    held = {f"table {name}": " ".join(rows(system, f"SELECT t::text FROM {name} AS t")) for name in tables}
    held |= {f"letter {n}": text for n, text in enumerate(rows(system, "SELECT convert_from(value, 'UTF8') FROM dlq_letters"))}
    held["topics"] = b" ".join(records(system)).decode("utf-8", "replace")

    assert any("/bot***/sendMessage" in text for where, text in held.items() if where.startswith("letter "))
    assert system.persons["user"] in held["table orders"]
    assert system.persons["user"] in held["topics"]
    assert_without(held, system.secrets)


def test_no_secret_is_in_a_command_line_or_in_the_environment_of_who_has_no_use_for_it(system: Planted) -> None:
    parts = system.up.children()
    lines = {name: " ".join(process.cmdline()) for name, process in parts.items()}
    assert_without(lines | {"up": " ".join(psutil.Process(system.up.process.pid).cmdline())}, system.secrets)
    knows = {name: {of for of, value in system.secrets.items() if value in str(process.environ())} for name, process in parts.items()}
    own = {role.process.removeprefix("outbox_"): {role.name} for role in roles.read()}
    assert {name: own.get(name, set()) | ({"sasl"} if name in {"source", "relay", "dlq_router"} else set()) for name in parts} == knows


def test_the_run_file_is_for_its_owner_alone_and_status_shows_no_password(system: Planted) -> None:
    """It has the local owner's DSN, by which commands reach the server that `up` made: a file of the same user's, beside the data."""
    file = home.run_file(system.up.home)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert_without({"run.json": file.read_text(encoding="utf-8")}, system.secrets)
    (status,) = [text for name, text in system.said.items() if name.endswith("status --json")]
    assert "order_password" not in status
    assert "order_user:***@" in status


def test_no_person_is_in_a_log_or_in_an_answer_about_a_failure(system: Planted) -> None:
    assert_without(logs(system) | system.said, system.persons)


def test_a_handler_that_tells_all_in_its_failure_is_heard_by_nobody(
    database: stack.TestDatabase, start_process: conftest.StartProcess, tmp_path: Path
) -> None:
    token, person = planted("token"), planted("user")
    (tmp_path / "token").write_text(token)
    (port,) = child.free_ports(1)
    for style in ("json", "text"):
        env = {"ORDER_POSTGRES_DSN": database.dsn("orderflow_order"), "DELIVERY_TOKEN_FILE": str(tmp_path / "token"), "LOG_LEVEL": "debug"}
        command = [sys.executable, "-m", "shared.server", "--source", "tests/samples/talkative/main.py", "--port", str(port)]
        function = start_process(command, env | {"LOG_FORMAT": style}, f"http://{child.LOOPBACK}:{port}")
        function.wait_ready()
        given = controls.binary(controls.assembled(user_id=person))
        answer = httpx.post(function.url, timeout=30, **given | {"headers": given["headers"] | {"authorization": f"Bearer {token}"}})
        function.stop()

        assert (500, "bug") == (answer.status_code, answer.json()["code"])
        assert "cannot reach postgresql://orderflow_order:***@127.0.0.1" in answer.json()["detail"]
        assert "RuntimeError: cannot reach" in function.text
        assert_without(
            {"log": function.text, "answer": answer.text}, {"token": token, "person": person, "password": "orderflow_order_password"}
        )
