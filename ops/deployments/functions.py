"""Every function as it is deployed: from contracts/topics.yaml, the folders in functions/ and, where one needs more, its function.yaml."""

import ast
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ops import home, roles
from shared import errors, topics
from shared.topics import Catalogue

PORT = 8080  # of the first function on one machine; another base moves all of them alike
CONNECTORS = {"source": PORT + 5, "relay": PORT + 6}  # listen among the functions

Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(m|Ki|Mi|Gi)?$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Scale(_Part):
    min: Annotated[int, Field(ge=0)] = 0
    max: Annotated[int, Field(ge=1)] = 5


class _Amounts(_Part):
    request: Quantity
    limit: Quantity


class Declared(_Part):
    """functions/<name>/function.yaml: what the function needs beyond these defaults. Most need no such file."""

    public: bool = False
    broker: bool = False
    environment: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)  # SETTING: name of the secret
    scale: _Scale = _Scale()
    concurrency: Annotated[int, Field(ge=1)] = 100
    memory: _Amounts = _Amounts(request="96Mi", limit="256Mi")
    cpu: _Amounts = _Amounts(request="50m", limit="1000m")
    port: Annotated[int, Field(ge=PORT)] | None = None  # None: the next that is free


@dataclass(frozen=True)
class Function:
    """One function, with all that a deployment says of it."""

    name: str  # of its folder
    summary: str  # the first line of its main.py
    consumer: str  # prefix of its settings: ORDER_POSTGRES_DSN
    role: str  # which it logs in with
    topics: tuple[str, ...]  # that it consumes
    groups: tuple[str, ...]  # that consume them for it
    public: bool  # people call it from outside, and no source does
    broker: bool  # it speaks to Kafka itself
    environment: dict[str, str]  # settings of its own
    secrets: tuple[tuple[str, str], ...]  # beyond its DSN and the token: (setting, name of the secret)
    min_scale: int
    max_scale: int
    concurrency: int  # requests at once in one instance
    memory_request: str
    memory_limit: str
    cpu_request: str
    cpu_limit: str
    port: int  # on one machine

    @property
    def service(self) -> str:
        """Its name where names are host names: OpenFaaS, Knative, Compose, SINK_URLS."""
        return self.name.replace("_", "-")

    @property
    def dsn_setting(self) -> str:
        """Which setting holds its DSN."""
        return f"{self.consumer.upper()}_POSTGRES_DSN"

    @property
    def dsn_secret(self) -> str:
        """Which secret does."""
        return f"{self.role.replace('_', '-')}-dsn"

    @property
    def token(self) -> bool:
        """Whether it wants DELIVERY_TOKEN with what it is sent: people have none."""
        return not self.public


def functions(checkout: Path = home.CHECKOUT) -> list[Function]:
    """Every function: those that people call, the consumers as topics.yaml has them, the rest. Raises ConfigError."""
    catalogue = topics.read(checkout / "contracts" / "topics.yaml")
    consumers = list(dict.fromkeys(consumer.function for _, consumer in catalogue.consumers()))
    known = {role.process: role for role in roles.read(checkout) if (checkout / "functions" / role.process / "main.py").is_file()}
    declared = {name: _declared(checkout / "functions" / name / "function.yaml") for name in known}
    order = sorted(known, key=lambda name: (not declared[name].public, consumers.index(name) if name in consumers else len(consumers)))
    ports = _ports({name: declared[name].port for name in order})
    summaries = {name: _summary(checkout / "functions" / name / "main.py") for name in order}
    return [_function(known[name], summaries[name], catalogue, declared[name], ports[name]) for name in order]


@functools.cache
def here() -> Mapping[str, Function]:
    """The functions of this checkout by their names, in their order, read once. Raises ConfigError."""
    return {function.name: function for function in functions()}


def _function(role: roles.Role, summary: str, catalogue: Catalogue, declared: Declared, port: int) -> Function:
    name = role.process
    consumed = [(topic.name, consumer.group) for topic, consumer in catalogue.consumers() if consumer.function == name]
    read, groups = (tuple(part) for part in zip(*consumed, strict=True)) if consumed else ((), ())
    return Function(
        name=name,
        summary=summary,
        consumer=role.consumer,
        role=role.name,
        topics=read,
        groups=groups,
        public=declared.public,
        broker=declared.broker,
        environment=declared.environment,
        secrets=tuple(declared.secrets.items()),
        min_scale=declared.scale.min,
        max_scale=declared.scale.max,
        concurrency=declared.concurrency,
        memory_request=declared.memory.request,
        memory_limit=declared.memory.limit,
        cpu_request=declared.cpu.request,
        cpu_limit=declared.cpu.limit,
        port=port,
    )


def _summary(main: Path) -> str:
    try:
        return (ast.get_docstring(ast.parse(main.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    except (SyntaxError, ValueError) as exc:
        raise errors.ConfigError([f"{main}: {exc}"]) from exc


def _declared(path: Path) -> Declared:
    if not path.is_file():
        return Declared()
    try:
        return Declared.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except yaml.YAMLError as exc:
        raise errors.ConfigError([f"{path}: {exc}"]) from exc
    except ValidationError as exc:
        raise errors.ConfigError([f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in exc.errors()]) from exc


def _ports(wanted: dict[str, int | None]) -> dict[str, int]:
    """A port for each: the one that it asks for, else the next that nobody has."""
    given = {name: port for name, port in wanted.items() if port is not None}
    taken = {*given.values(), *CONNECTORS.values()}
    if len(taken) < len(given) + len(CONNECTORS):
        raise errors.ConfigError([f"function.yaml: a port is given twice: {given} and {CONNECTORS}"])
    free = (port for port in range(PORT, PORT + 1000) if port not in taken)
    return {name: given[name] if name in given else next(free) for name in wanted}
