"""What tests of dead letters share."""

import contextlib
import os
import pty
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from ops import child, home
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
def start_in_terminal() -> Callable[..., tuple[int, str]]:
    """start_in_terminal(arguments, env, answer="") -> exit code and output of `orderflow` on a terminal of its own."""

    def start(arguments: Sequence[str], env: Mapping[str, str], answer: str = "") -> tuple[int, str]:
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            stack.orderflow(*arguments), cwd=home.CHECKOUT, env=child.environment(**env), stdin=follower, stdout=follower, stderr=follower,
            start_new_session=True,
        )  # fmt: skip
        os.close(follower)
        os.write(leader, answer.encode())
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal is an error
            while part := os.read(leader, 65536):
                shown += part
        os.close(leader)
        return process.wait(stack.PATIENCE_S), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode("utf-8", "replace")).replace("\r\n", "\n")

    return start


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
