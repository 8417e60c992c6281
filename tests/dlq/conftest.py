"""What tests of dead letters share."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import stack
from tests.dlq.desk import Desk
from tests.dlq.replaying import Bench
from tests.source import sinks


@pytest.fixture
def bench(database: stack.TestDatabase, kafka_brokers: str, tmp_path: Path) -> Bench:
    """A database with letters, and the commands that send them."""
    return Bench(database, kafka_brokers, tmp_path)


@pytest.fixture
def desk(database: stack.TestDatabase, kafka: stack.KafkaServer, tmp_path: Path) -> Desk:
    """A database, dead-letter topics, and the commands that look at their letters."""
    return Desk(database, kafka, tmp_path)


@pytest.fixture
def unused() -> Iterator[str]:
    """host:port where nothing answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def new_sink() -> Iterator[Callable[[], sinks.Sink]]:
    """new_sink() -> a scripted HTTP server until the end of the test."""
    made: list[sinks.Sink] = []

    def start() -> sinks.Sink:
        made.append(sinks.Sink())
        return made[-1]

    yield start
    for sink in made:
        sink.close()
