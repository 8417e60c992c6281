"""The system under fault: broker, database and all processes as `orderflow up` runs them, source and relay twice, behind proxies."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from chaos import proxies, schedule, toxiproxy
from chaos.proxies import Link, Proxies
from ops import child, home, kafka, migrations, postgres, programs, roles, supervisor, topics_admin
from ops.deployments import functions
from ops.journal import Journal
from ops.supervisor import Program
from shared import errors, topics
from shared.config import Settings

# Shorter than the defaults and in the same order among themselves, so that each of them passes many times in a few minutes.
TELEGRAM_TIMEOUT_S = 4  # with 2 a machine that is short of processors gave up on answers that nobody had touched
SETTINGS = {
    "ASSEMBLY_DURATION": "1s",
    "TELEGRAM_TIMEOUT": f"{TELEGRAM_TIMEOUT_S}s",
    "NOTIFICATION_LEASE": "6s",
    "STATEMENT_TIMEOUT": "3s",
    "DELIVERY_DEADLINE": "12s",
    "RELAY_DELIVERY_TIMEOUT": "6s",
    "DLQ_PRODUCER_TIMEOUT": "3s",
    "SHUTDOWN_TIMEOUT": "5s",
    "KAFKA_RETRY_BACKOFF_BASE": "200ms",
    # Each lost answer counts as a try, and here one event may well be in flight at more than four of them.
    "KAFKA_RETRY_MAX_ATTEMPTS": "8",
    "LOG_FORMAT": "json",
}
_TIMEOUT, _TIMEOUT_HERE = "timeout: PT30S", "timeout: PT15S"
REPLICAS = 2
RESTART_MAX_S = 1.0
_REPLICA_PORTS = 20  # from one replica to the next; all else lies below
PROCESSES = schedule.PROCESSES


class Stand:
    """All of it, in `folder`. `settings` reach its servers directly, past the proxies."""

    def __init__(self, folder: Path, settings: Settings, telegram: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._state, self._say = home.folder(), say
        self._telegram = telegram
        self._ports = _free_ports()
        listeners = child.free_ports(2 * len(schedule.LINKS) + 1)
        self._links = self._linked(listeners[1:])
        self._server = postgres.Server(folder / "postgres", self._ports.postgres)
        self._broker = kafka.Broker(self._state, folder / "kafka", self._ports.kafka, self._ports.kafka + 1, self._listeners())
        owner = postgres.dsn(self._ports.postgres, postgres.OWNER, postgres.OWNER_PASSWORD)
        # Names that the environment overrides would hold for every process alike, so they stay.
        self.settings = settings.model_copy(
            update={"kafka_brokers": self._broker.address, "postgres_dsns": {"order": SecretStr(owner)}, "assembly_duration": 1.0}
        )
        self.journal = Journal(folder / "logs", ["up", proxies.NAME, *PROCESSES], shown=set())
        self.supervisor = supervisor.Supervisor(self.journal)
        self.proxies = Proxies(toxiproxy.fetch(self._state, say), listeners[0], list(self._links.values()))
        self._manifest = folder / "sources.yaml"
        home.write(self._manifest, _hastened((home.CHECKOUT / programs.MANIFEST).read_text(encoding="utf-8")))

    @property
    def orders_url(self) -> str:
        """Where clients place orders."""
        return self._url("clients>orders")

    @property
    def sources_urls(self) -> list[str]:
        """Where each replica of the source tells of itself."""
        return [self._replica(n).url(programs.SOURCE) for n in range(REPLICAS)]

    async def start(self, prepare_database: Callable[[postgres.Server], None] = lambda _server: None) -> None:
        """Start all of it and wait until it is ready. `prepare_database` is called after the migrations. Raises Unavailable."""
        began = time.monotonic()
        await asyncio.to_thread(self._broker.prepare, self._say)
        await asyncio.to_thread(self._server.prepare, self._say)
        await supervisor.together(
            *(self._start(one) for one in (programs.broker(self._broker), programs.server(self._server), self.proxies.program()))
        )
        await self.proxies.make()
        await asyncio.to_thread(self._prepare, prepare_database)
        await supervisor.together(*(self._start(program) for program in self._programs()))
        self._say(f"{len(PROCESSES)} processes run behind {len(self._links)} proxies after {time.monotonic() - began:.1f} s")

    async def stop(self) -> None:
        """End all of it."""
        replicas = [name for name in PROCESSES if name.startswith((programs.SOURCE, programs.RELAY))]
        await self.supervisor.stop(replicas, [*functions.here()], ["kafka", "postgres"], [proxies.NAME])
        await self.proxies.close()
        self.journal.close()

    def _prepare(self, prepare_database: Callable[[postgres.Server], None]) -> None:
        topics_admin.Admin(self.settings).create(topics.catalogue(self.settings).all(), local=True)
        self._server.set_up()
        migrations.upgrade_all(self.settings, create_roles=True)
        prepare_database(self._server)

    async def _start(self, program: Program) -> None:
        await self.supervisor.start(replace(program, restart_max_s=RESTART_MAX_S))

    def _programs(self) -> list[Program]:
        made = []
        for name in functions.here():
            program = programs.function(name, self._ports, self._behind(f"{name}>kafka"), self._dsn(name, name))
            more = dict(self._telegram) if name == "notify" else {}
            made.append(replace(program, env={**program.env, **SETTINGS, **more}))
        sinks = {of.service: self._url(f"sources>{name}") for name, of in functions.here().items() if f"sources>{name}" in self._links}
        for n in range(REPLICAS):
            name = f"{programs.SOURCE}-{n + 1}"
            program = programs.source(self._replica(n), self._behind(f"{name}>kafka"))
            command = [str(self._manifest) if part == programs.MANIFEST else part for part in program.command]
            urls = ",".join(f"{service}={url}" for service, url in sinks.items())
            made.append(replace(program, name=name, command=command, env={**program.env, **SETTINGS, "SINK_URLS": urls}))
            name = f"{programs.RELAY}-{n + 1}"
            program = programs.relay(self._replica(n), self._behind(f"{name}>kafka"), self._dsn("relay", name))
            made.append(replace(program, name=name, env={**program.env, **SETTINGS}))
        return made

    def _replica(self, n: int) -> programs.Ports:
        return replace(self._ports, base=self._ports.base + n * _REPLICA_PORTS)

    def _dsn(self, process: str, client: str) -> str:
        role = next(role for role in roles.read() if role.process.removeprefix("outbox_") == process)
        return postgres.dsn(self._links[f"{client}>postgres"].port, role.name, role.password())

    def _behind(self, link: str) -> Settings:
        found = self._links.get(link)
        return self.settings.model_copy(update={"kafka_brokers": f"{child.LOOPBACK}:{found.port}"}) if found else self.settings

    def _url(self, link: str) -> str:
        return f"http://{child.LOOPBACK}:{self._links[link].port}"

    def _linked(self, free: list[int]) -> dict[str, Link]:
        """The links. Each client of Kafka has a listener of its own there, which sends it back to its own proxy."""
        made = {}
        for name in schedule.LINKS:
            client, _, server = name.partition(proxies.SEPARATOR)
            port = free.pop()
            upstream = {"kafka": free.pop(), "postgres": self._ports.postgres}.get(server) or self._ports.of(server)
            made[name] = Link(client, server, upstream, port)
        return made

    def _listeners(self) -> dict[str, str]:
        direct, controller = self._ports.kafka, self._ports.kafka + 1
        own = {link.client.replace("-", "").replace("_", "").upper(): link for link in self._links.values() if link.server == "kafka"}
        at = f"://{child.LOOPBACK}:"
        return {
            "listeners": ",".join(
                [f"PLAINTEXT{at}{direct}", f"CONTROLLER{at}{controller}", *(f"{name}{at}{link.upstream}" for name, link in own.items())]
            ),
            "advertised.listeners": ",".join([f"PLAINTEXT{at}{direct}", *(f"{name}{at}{link.port}" for name, link in own.items())]),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in ("CONTROLLER", "PLAINTEXT", *own)),
        }


def _hastened(manifest: str) -> str:
    if _TIMEOUT not in manifest:
        raise errors.ConfigError([f"{programs.MANIFEST}: no longer says {_TIMEOUT!r}, which a run with faults makes shorter"])
    return manifest.replace(_TIMEOUT, _TIMEOUT_HERE)


def _free_ports() -> programs.Ports:
    for _ in range(100):
        ports = programs.Ports.near(random.randrange(20_000, 32_000))  # noqa: S311  not a secret
        if all(map(child.is_free, range(ports.base, ports.postgres + 1))):
            return ports
    raise errors.Unavailable("no free ports were found", code="port_taken")
