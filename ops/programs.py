"""The processes of the whole system on one machine: their commands, their addresses, and what each may know of the environment."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import httpx

from ops import child, home, kafka, postgres
from ops.deployments import functions
from ops.supervisor import Program
from shared import errors
from shared.config import Settings

MANIFEST = "infra/knative/sources.yaml"
SOURCE, RELAY = "source", "relay"

# Settings that are secret or of no use without one: whoever has not to know them does not see them.
_BROKER = re.compile(r"KAFKA_(BROKERS|SECURITY_|SASL_|SSL_)\w*")
_TELEGRAM = re.compile(r"TELEGRAM_\w+")
_TOKEN = re.compile(r"DELIVERY_TOKEN(_FILE)?")
_NOBODYS = re.compile(r"\w+_POSTGRES_DSN(_FILE)?|ORDERFLOW_\w+_PASSWORD(_FILE)?|PGPASSWORD|AWS_\w+")


@dataclass(frozen=True)
class Ports:
    """Where all of it listens, on the loopback interface."""

    base: int
    kafka: int
    postgres: int

    @classmethod
    def near(cls, base: int) -> Self:
        """All of them near each other, with room for later functions."""
        return cls(base, kafka=base + 50, postgres=base + 52)

    def of(self, name: str) -> int:
        """The port of a function, the source or the relay."""
        return self.ours()[name]

    def url(self, name: str) -> str:
        """The address of a function, of the source's control or of the relay's."""
        return f"http://{child.LOOPBACK}:{self.of(name)}"

    def ours(self) -> dict[str, int]:
        """Every port of our own processes by what it is for."""
        usual = {name: function.port for name, function in functions.here().items()} | functions.CONNECTORS
        return {name: self.base + port - functions.PORT for name, port in usual.items()}

    def all(self) -> list[int]:
        """Every port."""
        return [*self.ours().values(), self.kafka, self.kafka + 1, self.postgres]


def broker(of: kafka.Broker) -> Program:
    """The local Kafka."""
    return Program(
        "kafka", of.command(), kafka.environment(), kafka.Probe(of.address), kafka.STOP_SIGNAL, kafka.CLEAN_EXITS, stop_within_s=20
    )


def server(of: postgres.Server) -> Program:
    """The local PostgreSQL."""
    return Program("postgres", of.command(), child.environment(), of.probe, postgres.STOP_SIGNAL, postgres.CLEAN_EXITS, cwd="/")


def function(name: str, ports: Ports, settings: Settings, dsn: str) -> Program:
    """One function, through the server that production runs. `dsn` is of its own role."""
    of = functions.here()[name]
    command = ["-m", "shared.server", "--source", f"functions/{name}/main.py", "--target", "handle"]
    added = {setting: value for setting, value in of.environment.items() if setting not in os.environ} | {of.dsn_setting: dsn}
    if of.broker:
        added["KAFKA_BROKERS"] = settings.kafka_brokers
    return _ours(name, [*command, "--host", child.LOOPBACK, "--port", str(ports.of(name))], ports, settings, added)


def source(ports: Ports, settings: Settings) -> Program:
    """All Kafka sources, in one process. It knows no database."""
    urls = ",".join(f"{of.service}={ports.url(name)}" for name, of in functions.here().items())
    added = {"KAFKA_BROKERS": settings.kafka_brokers, "SINK_URLS": os.environ.get("SINK_URLS") or urls}
    command = ["-m", "connectors.kafka_source", "--manifest", MANIFEST, "--control-port", str(ports.of(SOURCE))]
    return _ours(SOURCE, command, ports, settings, added)


def relay(ports: Ports, settings: Settings, dsn: str) -> Program:
    """The outbox relay."""
    added = {"KAFKA_BROKERS": settings.kafka_brokers, "RELAY_POSTGRES_DSN": dsn}
    return _ours(RELAY, ["-m", "connectors.outbox_relay", "--control-port", str(ports.of(RELAY))], ports, settings, added)


def environment(name: str, added: Mapping[str, str]) -> dict[str, str]:
    """This process's environment as `name` may see it, and `added`."""
    secrets = _secrets()
    kept = {
        key: value
        for key, value in os.environ.items()
        if all(name in allowed or not secret.fullmatch(key.upper()) for secret, allowed in secrets.items())
    }
    return {"LOG_FORMAT": "text", "PYTHONUNBUFFERED": "1"} | kept | dict(added)


def _secrets() -> dict[re.Pattern[str], set[str]]:
    """Who gets which of our secrets; nobody else does."""
    known = functions.here()
    found: dict[re.Pattern[str], set[str]] = {
        _BROKER: {SOURCE, RELAY, *(name for name, of in known.items() if of.broker)},
        _TOKEN: {SOURCE, *(name for name, of in known.items() if of.token)},
        _NOBODYS: set(),
    }
    for name, of in known.items():
        for setting, _ in of.secrets:
            own = _TELEGRAM if _TELEGRAM.fullmatch(setting) else re.compile(rf"{setting}(_FILE)?")
            found.setdefault(own, set()).add(name)
    return found


def _ours(name: str, arguments: list[str], ports: Ports, settings: Settings, added: Mapping[str, str]) -> Program:
    url = ports.url(name) + "/health"

    def answers() -> None:
        answer = httpx.get(url, timeout=2, trust_env=False)
        if answer.status_code != 200:
            raise errors.Unavailable(f"{url} answered {answer.status_code}: {answer.text[:200]}")

    return Program(
        name,
        child.guarded([sys.executable, *arguments]),
        environment(name, added),
        answers,
        stop_within_s=settings.shutdown_timeout + settings.drain_delay + 5,
        cwd=str(home.CHECKOUT),
    )
