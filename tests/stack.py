"""The servers and processes that tests run against: real ones, on free loopback ports, gone when the test run is gone."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import httpx
import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from ops import child, home, kafka, migrations, postgres, programs, roles
from shared import config, database, errors

T = TypeVar("T")
CLIENT: dict[str, str | int | float | bool] = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 500, "log_level": 0}
# The slowest sane machine gets this long for anything that a test waits for.
PATIENCE_S = 40.0


def eventually(look: Callable[[], T], what: str, within_s: float = PATIENCE_S) -> T:
    """The first truthy answer of `look`, asked again and again. Fails the test, with the last answer, when there is none in time."""
    deadline = time.monotonic() + within_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            found = look()
        except (errors.OrderflowError, httpx.TransportError, KafkaException, OSError) as exc:
            last = exc
        else:
            if found:
                return found
            last = found
        time.sleep(0.05)
    raise AssertionError(f"waited {within_s:.0f} s for {what}; the last answer was {last!r}")


class Process:
    """A process of a test: its log in a file, ended by signals, killed with the test run."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, *, url: str = "", folder: Path = home.CHECKOUT) -> None:
        self.command, self.env, self.log, self.url, self._folder = list(command), dict(env), log, url, folder
        self._popen: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        """The id of the process that runs, or ran last."""
        assert self._popen is not None
        return self._popen.pid

    @property
    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def alive(self) -> bool:
        """Whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start it, again after `kill` or `stop`. It may not be ready yet: see `wait_ready`."""
        with self.log.open("ab") as out:
            self._popen = subprocess.Popen(
                self.command, env=child.environment(**self.env), cwd=self._folder, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait_ready(self, path: str = "/health", within_s: float = PATIENCE_S) -> None:
        """Wait for GET `path` to answer 200. Fails the test with the log when the process ends before."""

        def answers() -> bool:
            assert self.alive(), f"{self.command} ended with {self.wait()}:\n{self.text[-3000:]}"
            return httpx.get(self.url + path, timeout=2).status_code == 200

        try:
            eventually(answers, f"{self.url}{path}", within_s)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.text[-3000:]}") from exc

    def send(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP freezes it, SIGCONT thaws it."""
        assert self._popen is not None
        self._popen.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self._popen is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """Its exit code, once it ended."""
        assert self._popen is not None
        return self._popen.wait(within_s)

    def stop(self, number: signal.Signals = signal.SIGTERM, within_s: float = PATIENCE_S) -> int:
        """Ask it to end; its exit code. kill -9 when it does not end in time."""
        if self.alive():
            self.send(number)
        try:
            return self.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()


class KafkaServer:
    """A broker of its own, fresh. `stop`, `start`, `kill` and signals are for tests that own it alone.

    `more` are settings of the broker, or makes them of its port and its controller's.
    """

    def __init__(self, folder: Path, more: Mapping[str, str] | Callable[[int, int], Mapping[str, str]] | None = None) -> None:
        for attempt in itertools.count(1):
            port, controller_port = child.free_ports(2)
            settings = more(port, controller_port) if callable(more) else more or {}
            self._broker = kafka.Broker(home.folder(), folder, port, controller_port, settings)
            self._broker.prepare()
            self.process = Process(self._broker.command(), kafka.environment(), folder / "log.txt")
            if _ready(self, retry=attempt < 3, port_taken="Address already in use"):
                break

    @property
    def brokers(self) -> str:
        """host:port."""
        return self._broker.address

    def wait_ready(self) -> None:
        """Wait until it answers."""
        kafka.wait_ready(self.brokers, self.process.alive)

    def prepare(self) -> None:
        """What is done before each start."""
        self._broker.prepare()

    def start(self) -> None:
        """Start it again on its port and data, and wait until it answers."""
        self.process.start()
        self.wait_ready()

    def stop(self) -> None:
        """Stop it in good order."""
        self.process.stop(kafka.STOP_SIGNAL)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def make_topic(self, partitions: int = 1, config: Mapping[str, str] | None = None, name: str | None = None) -> str:
        """A new topic's name, its own unless given; the topic is there when this returns."""
        name = name or f"test.{uuid.uuid4().hex}"
        client = AdminClient(CLIENT | {"bootstrap.servers": self.brokers})
        client.create_topics([NewTopic(name, partitions, 1, config=dict(config or {}))])[name].result(PATIENCE_S)
        eventually(lambda: len(client.list_topics(name, timeout=5).topics[name].partitions) == partitions, f"topic {name}")
        return name

    def warm_up(self) -> None:
        """Have the topic of committed offsets made now, not in the first test that commits."""
        consumer = Consumer(CLIENT | {"bootstrap.servers": self.brokers, "group.id": "warm-up"})
        try:
            consumer.committed([TopicPartition(self.make_topic(), 0)], timeout=PATIENCE_S)
        finally:
            consumer.close()


class TestDatabase:
    """A fresh, migrated database."""

    __test__ = False

    def __init__(self, port: int, name: str, options: str = "") -> None:
        self.port, self.name, self.options = port, name, options
        self._database: database.Database | None = None

    def dsn(self, role: str = postgres.OWNER) -> str:
        """Where `role` connects to it: the owner, or a role of a process."""
        password = {role.name: role.password() for role in roles.read()} | {postgres.OWNER: postgres.OWNER_PASSWORD}
        return postgres.dsn(self.port, role, password[role], self.name) + self.options

    def environment(self) -> dict[str, str]:
        """Every *_POSTGRES_DSN setting, each with its role. ORDER_POSTGRES_DSN is that of the orders function."""
        found: dict[str, str] = {}
        for role in roles.read():
            found.setdefault(f"{role.consumer.upper()}_POSTGRES_DSN", self.dsn(role.name))
        return found

    def run(self, sql: str, **params: object) -> list[list[Any]]:
        """The rows of one statement, as the owner, committed."""
        if self._database is None:
            self._database = database.Database(self.dsn(), settings=config.Settings(), application="test")
        return self._database.transact(lambda tx: tx.run(sql, **params))

    def close(self) -> None:
        """Let go of its connections."""
        if self._database is not None:
            self._database.close()
            self._database = None


class PostgresServer:
    """A server of its own, fresh. `stop`, `start`, `kill` and signals are for tests that own it alone."""

    kind: ClassVar[type[postgres.Server]] = postgres.Server
    options = ""  # what follows each DSN

    def __init__(self, folder: Path, more: Mapping[str, str] | None = None) -> None:
        settings = {"fsync": "off"} | dict(more or {})  # no test cuts the machine's power
        for attempt in itertools.count(1):
            self._server = self.kind(folder, child.free_ports(1)[0], settings)
            self._server.prepare()
            self.process = Process(self._server.command(), {}, folder / "log.txt")
            if _ready(self, retry=attempt < 3, port_taken="could not create any TCP/IP sockets"):
                break
        self._server.set_up()
        self._template = ""
        self._made: list[TestDatabase] = []

    @property
    def port(self) -> int:
        """Its port on 127.0.0.1."""
        return self._server.port

    def wait_ready(self) -> None:
        """Wait until it answers."""
        postgres.wait_ready(self._server, self.process.alive)

    @property
    def data(self) -> Path:
        """PostgreSQL's own folder."""
        return self._server.data

    def prepare(self) -> None:
        """What is done before each start."""
        self._server.prepare()

    def start(self) -> None:
        """Start it again on its port and data, and wait until it answers."""
        # After a kill its shared memory can be in use for a moment, and then it ends at once.
        for _ in range(20):
            self.process.start()
            try:
                return self.wait_ready()
            except errors.Unavailable:
                self.process.kill()
                time.sleep(0.1)
        raise AssertionError(self.process.text[-2000:])

    def stop(self) -> None:
        """Stop it at once, in good order."""
        self.process.stop(postgres.STOP_SIGNAL)

    def kill(self) -> None:
        """kill -9 of the whole server. Its parts have sessions of their own, and one could answer a last time."""
        parts = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for part in parts:
            with contextlib.suppress(psutil.NoSuchProcess):
                part.kill()
        psutil.wait_procs(parts, timeout=PATIENCE_S)

    def administer(self, sql: str) -> str:
        """What psql prints for one statement of the server's superuser."""
        return self._server.run(sql)

    def new_database(self) -> TestDatabase:
        """A fresh database, cloned from one that was migrated once."""
        if not self._template:
            template = f"template_{uuid.uuid4().hex[:12]}"
            self._server.run(f"CREATE DATABASE {template} OWNER {postgres.OWNER}")
            migrations.upgrade(TestDatabase(self.port, template, self.options).dsn(), create_roles=True)
            self._template = template
        made = TestDatabase(self.port, f"test_{uuid.uuid4().hex[:12]}", self.options)
        self._server.run(f"CREATE DATABASE {made.name} TEMPLATE {self._template} OWNER {postgres.OWNER}")
        self._made.append(made)
        return made

    def drop(self, made: TestDatabase) -> None:
        """Remove a database, whoever is connected."""
        made.close()
        self._server.run(f"DROP DATABASE IF EXISTS {made.name} WITH (FORCE)")
        self._made.remove(made)

    def close(self) -> None:
        """End it and let go of every connection."""
        for made in self._made:
            made.close()
        self.process.kill()


def _ready(server: "KafkaServer | PostgresServer", *, retry: bool, port_taken: str) -> bool:
    """Whether it answers. False when another process was quicker to take its port."""
    try:
        server.wait_ready()
    except errors.Unavailable:
        server.process.kill()
        if retry and port_taken in server.process.text:
            return False
        raise
    return True


@contextlib.contextmanager
def running(server: type[T], folder: Path, more: Mapping[str, str] | None = None) -> Iterator[T]:
    """A server until the end of the block; its data are removed then."""
    found = server(folder, more)  # type: ignore[call-arg]
    try:
        yield found
    finally:
        found.close() if isinstance(found, PostgresServer) else found.process.kill()  # type: ignore[attr-defined]
        shutil.rmtree(folder, ignore_errors=True)


def start_function(name: str, env: Mapping[str, str], log: Path) -> Process:
    """The function `name` in its own process, through the server that production runs; ready when this returns."""
    (port,) = child.free_ports(1)
    command = [sys.executable, "-m", "shared.server", "--source", f"functions/{name}/main.py", "--target", "handle"]
    process = Process(
        child.guarded([*command, "--host", child.LOOPBACK, "--port", str(port)]), env, log, url=f"http://{child.LOOPBACK}:{port}"
    )
    try:
        process.wait_ready()
    except BaseException:
        process.kill()
        raise
    return process


class Up:
    """`orderflow up` in its own process and folder, on ports of its own."""

    def __init__(self, folder: Path, env: Mapping[str, str], *options: str, checkout: Path = home.CHECKOUT) -> None:
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        jars = home.folder() / "kafka-jars"
        if jars.exists() and not (self.home / "kafka-jars").exists():
            (self.home / "kafka-jars").symlink_to(jars)  # so that nothing is fetched again
        self.ports = run_of_ports()
        self.env = {"ORDERFLOW_HOME": str(self.home), "PATH": os.environ["PATH"]} | dict(env)
        command = orderflow("up", *port_options(self.ports), *options)
        self._checkout = checkout
        self.process = Process(child.guarded(command, signal.SIGTERM), self.env, folder / "up.log", folder=checkout)

    @property
    def told(self) -> dict[str, Any]:
        """The run file."""
        return home.last_run(self.home)

    def wait_ready(self, within_s: float = 90.0) -> dict[str, Any]:
        """Wait until everything runs; what the run file says then."""

        def ready() -> dict[str, Any] | None:
            assert self.process.alive(), self.process.text[-3000:]
            told = self.told
            return told if told.get("ready") and told["pid"] == self.process.pid else None

        found = eventually(ready, f"orderflow up:\n{self.process.text[-3000:]}", within_s)
        assert found is not None
        return found

    def children(self) -> dict[str, psutil.Process]:
        """Every process that it runs now, by name; one that was just killed is none."""
        told = self.told
        parts = {name: told[name] for name in ("kafka", "postgres", "source", "relay") if "pid" in told.get(name, {})}
        found = {}
        for name, of in (parts | told["functions"]).items():
            with contextlib.suppress(psutil.NoSuchProcess):
                if of.get("pid"):
                    found[name] = psutil.Process(of["pid"])
        return found

    def log(self, name: str) -> str:
        """What the process `name` has logged."""
        return (self.home / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def command(self, *arguments: str, within_s: float = 120.0) -> "subprocess.CompletedProcess[str]":
        """Run another `orderflow` command against it."""
        return subprocess.run(
            orderflow(*arguments), env=child.environment(**self.env), cwd=self._checkout, capture_output=True, text=True, check=False,
            timeout=within_s,
        )  # fmt: skip


def orderflow(*arguments: str) -> list[str]:
    """The command line of the `orderflow` command."""
    return [sys.executable, "-c", "from ops import command; command.main()", *arguments]


def run_of_ports() -> programs.Ports:
    """Free ports for a whole system."""
    for _ in range(200):
        ports = programs.Ports.near(random.randrange(20_000, 32_000))  # noqa: S311 - not a secret
        if all(map(child.is_free, range(ports.base, ports.postgres + 1))):
            return ports
    raise AssertionError("no free ports")


def port_options(ports: programs.Ports) -> list[str]:
    """How `orderflow up` is told its ports."""
    return ["--port-base", str(ports.base), "--kafka-port", str(ports.kafka), "--postgres-port", str(ports.postgres)]
