"""What tests of functions share: a client, and functions that are started once for a module."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from ops import child
from tests import stack

StartModuleFunction = Callable[..., stack.Process]


@pytest.fixture(scope="module")
def module_database(postgres: stack.PostgresServer) -> Iterator[stack.TestDatabase]:
    """A fresh, migrated database for the tests of one module."""
    made = postgres.new_database()
    yield made
    postgres.drop(made)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartModuleFunction]:
    """serve("functions/notify/main.py", env) -> that function in its own process until the module's tests end."""
    made: list[stack.Process] = []

    def start(source: str, env: Mapping[str, str] | None = None) -> stack.Process:
        (port,) = child.free_ports(1)
        command = [sys.executable, "-m", "shared.server", "--source", source, "--port", str(port)]
        log = Path(tmp_path_factory.mktemp("function")) / "log.txt"
        made.append(stack.Process(child.guarded(command), env or {}, log, url=f"http://{child.LOOPBACK}:{port}"))
        made[-1].wait_ready()
        return made[-1]

    yield start
    for process in made:
        process.kill()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """An HTTP client with patience."""
    with httpx.Client(timeout=30) as made:
        yield made
