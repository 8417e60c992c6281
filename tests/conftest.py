"""What every test may ask for: one broker and one database server for the whole run, a fresh database and topics for each test."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from ops import child
from shared import masking
from tests import stack


class MakeTopic(Protocol):
    def __call__(self, partitions: int = 1, config: Mapping[str, str] | None = None, name: str | None = None) -> str: ...


class StartFunction(Protocol):
    def __call__(self, name: str, env: Mapping[str, str] | None = None) -> stack.Process: ...


class StartProcess(Protocol):
    def __call__(self, command: Sequence[str], env: Mapping[str, str] | None = None, url: str = "") -> stack.Process: ...


@pytest.fixture(autouse=True)
def _forgets_secrets() -> Iterator[None]:
    """A process knows its secrets for as long as it lives; here each test is a process of its own, and `password` is another's word."""
    known, pattern = set(masking._secrets), masking._any_secret
    yield
    masking._secrets.clear()
    masking._secrets.update(known)
    masking._any_secret = pattern


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.KafkaServer]:
    """The broker of the test run. A test that stops or freezes a broker takes `private_kafka`."""
    with stack.running(stack.KafkaServer, tmp_path_factory.mktemp("kafka")) as server:
        server.warm_up()
        yield server


@pytest.fixture(scope="session")
def kafka_brokers(kafka: stack.KafkaServer) -> str:
    """Where the broker of the test run is: host:port."""
    return kafka.brokers


@pytest.fixture(scope="session")
def make_topic(kafka: stack.KafkaServer) -> MakeTopic:
    """make_topic(partitions=1, config=None) -> the name of a new topic at `kafka_brokers`."""
    return kafka.make_topic


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.PostgresServer]:
    """The database server of the test run. A test that stops or freezes a server takes `private_postgres`."""
    with stack.running(stack.PostgresServer, tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def database(postgres: stack.PostgresServer) -> Iterator[stack.TestDatabase]:
    """A fresh, migrated database: .dsn(role), .run(sql, **params), .environment()."""
    made = postgres.new_database()
    yield made
    postgres.drop(made)


@pytest.fixture
def private_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., stack.KafkaServer]]:
    """private_kafka(more=None) -> a broker for this test alone, to stop, kill and freeze; `more` are settings of the broker."""
    with ExitStack() as at_end:

        def start(more: Mapping[str, str] | None = None) -> stack.KafkaServer:
            return at_end.enter_context(stack.running(stack.KafkaServer, tmp_path_factory.mktemp("kafka"), more))

        yield start


@pytest.fixture
def private_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., stack.PostgresServer]]:
    """private_postgres(more=None) -> a server for this test alone, to stop, kill and freeze; .new_database() gives a database of it."""
    with ExitStack() as at_end:

        def start(more: Mapping[str, str] | None = None) -> stack.PostgresServer:
            return at_end.enter_context(stack.running(stack.PostgresServer, tmp_path_factory.mktemp("postgres"), more))

        yield start


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[StartProcess]:
    """start_process(command, env=None, url="") -> a process that runs until the test ends; it does not wait for it to be ready."""
    made: list[stack.Process] = []
    numbers = itertools.count(1)

    def start(command: Sequence[str], env: Mapping[str, str] | None = None, url: str = "") -> stack.Process:
        made.append(stack.Process(child.guarded(command), env or {}, tmp_path / f"process-{next(numbers)}.log", url=url))
        return made[-1]

    yield start
    for process in reversed(made):
        process.kill()


@pytest.fixture
def start_function(tmp_path: Path) -> Iterator[StartFunction]:
    """start_function(name, env=None) -> the function in its own process: .url, .pid, .text, .kill(), .stop(), .start(), .wait_ready()."""
    made: list[stack.Process] = []
    numbers = itertools.count(1)

    def start(name: str, env: Mapping[str, str] | None = None) -> stack.Process:
        made.append(stack.start_function(name, env or {}, tmp_path / f"{name}-{next(numbers)}.log"))
        return made[-1]

    yield start
    for process in reversed(made):
        process.kill()
