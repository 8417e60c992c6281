"""What tests of dead letters share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import stack
from tests.dlq.replaying import Bench
from tests.source import sinks


@pytest.fixture
def bench(database: stack.TestDatabase, kafka_brokers: str, tmp_path: Path) -> Bench:
    """A database with letters, and the commands that send them."""
    return Bench(database, kafka_brokers, tmp_path)


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
