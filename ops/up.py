"""`orderflow up`: everything on one machine, from nothing, until Ctrl-C."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil
import typer
from pydantic import SecretStr

from ops import child, home, kafka, migrations, notices, postgres, programs, roles, supervisor, terminal, topics_admin
from ops.deployments import functions
from ops.journal import Journal
from shared import config, errors, topics
from shared.config import Settings

_LEFTOVERS_S = 15.0
_SOURCES_S = 20.0

KafkaPort = Annotated[
    int, typer.Option(min=1, max=65534, envvar="ORDERFLOW_KAFKA_PORT", help="Kafka's port; its controller takes the next.")
]
PostgresPort = Annotated[int, typer.Option(min=1, max=65535, envvar="ORDERFLOW_POSTGRES_PORT", help="PostgreSQL's port.")]
PortBase = Annotated[
    int, typer.Option(min=1, max=65000, envvar="ORDERFLOW_PORT_BASE", help="The first of our ports: the functions, the source, the relay.")
]
PORTS = programs.Ports(base=8080, kafka=19092, postgres=15432)


@terminal.failures()
def up(
    *,
    kafka_port: KafkaPort = PORTS.kafka,
    postgres_port: PostgresPort = PORTS.postgres,
    port_base: PortBase = PORTS.base,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show only what this command itself has to say.")] = False,
) -> None:
    """Start everything that is needed and keep it running until Ctrl-C: broker, database, topics, tables, functions, sources, relay.

    KAFKA_BROKERS or ORDER_POSTGRES_DSN, where set, names a server to use, and then none is started.
    All data lie in .orderflow, or where ORDERFLOW_HOME says.
    """
    settings = config.load()
    state = home.folder()
    running = home.last_run(state)
    refusal = (
        f"`orderflow up` runs with {state} already (process {running.get('pid', 'unknown')}): `orderflow status` shows it. "
        "For a second one set ORDERFLOW_HOME to another folder, and --port-base, --kafka-port and --postgres-port"
    )
    with home.locked(home.lock_file(state), wait=False, refusal=refusal):
        home.run_file(state).unlink(missing_ok=True)  # of an `up` that was killed
        shown = {"up"} if quiet else None
        journal = Journal(state / "logs", ["up", "kafka", "postgres", programs.SOURCE, programs.RELAY, *functions.here()], shown=shown)
        try:
            stack = _Stack(settings, state, programs.Ports(port_base, kafka_port, postgres_port), journal)
            _await_leftovers(state, running)
            asyncio.run(stack.run())
        finally:
            journal.close()
            home.run_file(state).unlink(missing_ok=True)


class _Stack:
    def __init__(self, settings: Settings, state: Path, ports: programs.Ports, journal: Journal) -> None:
        self._given, self._state, self._ports, self._journal = settings, state, ports, journal
        self._broker = None if _is_set("KAFKA_BROKERS") else kafka.Broker(state, state / "kafka", ports.kafka, ports.kafka + 1)
        self._server = None if _is_set("ORDER_POSTGRES_DSN") else postgres.Server(state / "postgres", ports.postgres)
        self._settings = self._as_used()
        self._supervisor = supervisor.Supervisor(journal, self._write)
        self._started = datetime.now(UTC)
        self._ready = False

    async def run(self) -> None:
        """Start all, wait for a signal, stop all. Raises Unavailable when the start fails."""
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def asked() -> None:
            if stop.is_set():
                self._say("once more: kill -9 of all")
                self._supervisor.kill()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started by nohup
            loop.add_signal_handler(number, asked)
        starting, waiting = asyncio.create_task(self._start()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await waiting
            self._say("stopping all")
        finally:
            self._ready = False
            starting.cancel()
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, errors.OrderflowError):
                await starting
            await self._supervisor.stop([programs.SOURCE, programs.RELAY], [*functions.here()], ["kafka", "postgres"])
        self._say("all ended")

    async def _start(self) -> None:
        began = time.monotonic()
        migrations.check(self._settings)  # before anything is fetched or started
        self._demand_ports()
        self._write()
        self._say_all(notices.differences(self._settings))
        await supervisor.together(self._kafka(), self._postgres_and_functions())
        dsn = self._dsn("relay")
        await supervisor.together(
            self._supervisor.start(programs.source(self._ports, self._settings)),
            self._supervisor.start(programs.relay(self._ports, self._settings, dsn)),
        )
        await asyncio.to_thread(_await_sources, self._ports.url(programs.SOURCE))
        self._ready = True
        self._write()
        self._say(f"all is ready after {time.monotonic() - began:.1f} s")
        local = self._ports.postgres if self._server else None
        self._say_all(notices.whereabouts(self._ports.url("orders"), self._settings.kafka_brokers, local, self._state / "logs"))

    async def _kafka(self) -> None:
        if self._broker is None:
            self._say(f"using Kafka at {self._settings.kafka_brokers} (KAFKA_BROKERS)")
        else:
            await asyncio.to_thread(self._broker.prepare, self._say)
            await self._supervisor.start(programs.broker(self._broker))
        admin = topics_admin.Admin(self._settings)
        declared = topics.catalogue(self._settings).all()
        made = await asyncio.to_thread(admin.create, declared, local=self._broker is not None)
        created = [of.topic for of in made if of.action == "created"]
        if created:
            self._say(f"topics created: {', '.join(created)}")
        self._say_all(f"topic {of.topic} {of.action}: {'; '.join(of.notes)}" for of in made if of.action not in {"created", "unchanged"})

    async def _postgres_and_functions(self) -> None:
        if self._server is None:
            self._say(f"using PostgreSQL at {migrations.where(self._settings.postgres_dsn('order'))} (ORDER_POSTGRES_DSN)")
        else:
            await asyncio.to_thread(self._server.prepare, self._say)
            await self._supervisor.start(programs.server(self._server))
            await asyncio.to_thread(self._server.set_up)
        ours = self._server is not None  # so nothing else of any version runs on it
        done = await asyncio.to_thread(migrations.upgrade_all, self._settings, create_roles=ours, contract=ours, tell=self._say)
        self._say(f"tables are up to date in {', '.join(done)}")
        made = (programs.function(name, self._ports, self._settings, self._dsn(name)) for name in functions.here())
        await supervisor.together(*(self._supervisor.start(program) for program in made))

    def _as_used(self) -> Settings:
        update: dict[str, Any] = {}
        if self._broker is not None:
            update["kafka_brokers"] = self._broker.address
        if self._server is not None:
            owner = postgres.dsn(self._ports.postgres, postgres.OWNER, postgres.OWNER_PASSWORD)
            update["postgres_dsns"] = self._given.postgres_dsns | {"order": SecretStr(owner)}
        return self._given.model_copy(update=update)

    def _dsn(self, process: str) -> str:
        """The DSN of one process: what the environment gives its consumer, else that of its own role on the local server."""
        role = next(role for role in roles.read() if role.process.removeprefix("outbox_") == process)
        if self._server is None or role.consumer in self._given.postgres_dsns:
            return self._settings.postgres_dsn(role.consumer)
        return postgres.dsn(self._ports.postgres, role.name, role.password())

    def _demand_ports(self) -> None:
        wanted = self._ports.ours()
        if self._broker is not None:
            wanted |= {"Kafka": self._ports.kafka, "Kafka's controller": self._ports.kafka + 1}
        if self._server is not None:
            wanted["PostgreSQL"] = self._ports.postgres
        child.demand_ports(wanted, notices.OTHER_PORTS)

    def _write(self) -> None:
        """Write run.json: what other commands, and people, find all of it by."""
        dsn = self._settings.postgres_dsn("order")
        told = {
            "pid": os.getpid(),
            "started_at": self._started.isoformat(timespec="seconds"),
            "ready": self._ready,
            "kafka": {"brokers": self._settings.kafka_brokers, "ours": self._broker is not None} | self._facts("kafka"),
            "postgres": {"dsn": dsn if self._server else notices.without_password(dsn), "ours": self._server is not None}
            | self._facts("postgres"),
            "functions": {name: {"url": self._ports.url(name)} | self._facts(name) for name in functions.here()},
            "sources_url": self._ports.url(programs.SOURCE),
            "source": {"url": self._ports.url(programs.SOURCE)} | self._facts(programs.SOURCE),
            "relay": {"url": self._ports.url(programs.RELAY)} | self._facts(programs.RELAY),
            "logs": str(self._state / "logs"),
        }
        home.write(home.run_file(self._state), json.dumps(told, indent=2) + "\n", 0o600)

    def _facts(self, name: str) -> dict[str, Any]:
        one = self._supervisor.running.get(name)
        return {"state": one.state, "pid": one.pid, "restarts": one.restarts} if one else {}

    def _say(self, line: str) -> None:
        self._journal.say("up", line)

    def _say_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._say(line)


def _is_set(name: str) -> bool:
    return bool(os.environ.get(name) or os.environ.get(f"{name}_FILE"))


def _await_sources(url: str) -> None:
    """Wait until every source has joined its group. One that takes long is no reason not to start: `orderflow status` shows it."""
    deadline = time.monotonic() + _SOURCES_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            told = httpx.get(f"{url}/sources", timeout=5, trust_env=False).json()["sources"]
            if all(of["state"] != "starting" for of in told.values()):
                return
        time.sleep(0.1)


def _await_leftovers(state: Path, told: dict[str, Any]) -> None:
    """Wait for what a killed `up` left behind: its broker and database need a moment to end in good order."""
    ids = [part.get("pid") for part in (told.get("kafka"), told.get("postgres")) if isinstance(part, dict)]
    left: list[psutil.Process] = []
    for pid in filter(None, ids):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if str(state) in " ".join(process.cmdline()):
                left.append(process)
    psutil.wait_procs(left, timeout=_LEFTOVERS_S)
