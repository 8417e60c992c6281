"""Processes that die where a test says, a database for the tests of one module, and a function beside them that does not die."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import pytest

from ops import child
from tests import stack
from tests.kills.mortal import Mortal
from tests.kills.points import Point


class StartMortal(Protocol):
    def __call__(
        self, tables: str, command: Sequence[str], env: Mapping[str, str], *, point: Point | None = None, traced: bool = False
    ) -> Mortal: ...


class ServeMortal(Protocol):
    def __call__(self, tables: str, function: str, env: Mapping[str, str], *, traced: bool = False) -> Mortal: ...


@pytest.fixture(scope="module")
def module_database(postgres: stack.PostgresServer) -> Iterator[stack.TestDatabase]:
    """A fresh, migrated database for the tests of one module."""
    made = postgres.new_database()
    yield made
    postgres.drop(made)


@pytest.fixture(scope="module")
def start_mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartMortal]:
    """start_mortal(tables, command, env, point=None, traced=False) -> a program that dies where it is told, until the module's end.

    In `command` PORT is a free port, on which it answers GET /health. It need not be ready when this returns.
    """
    made: list[Mortal] = []

    def start(tables: str, command: Sequence[str], env: Mapping[str, str], *, point: Point | None = None, traced: bool = False) -> Mortal:
        (port,) = child.free_ports(1)
        filled = [str(port) if argument == "PORT" else argument for argument in command]
        url = f"http://{child.LOOPBACK}:{port}"
        env = {"REMOVAL_INTERVAL": "1h"} | dict(env)  # so that a trace has nothing of it
        made.append(Mortal(tables, filled, env, tmp_path_factory.mktemp("mortal"), url, point, traced=traced))
        return made[-1]

    yield start
    for mortal in reversed(made):
        mortal.process.kill()


@pytest.fixture(scope="module")
def serve_mortal(start_mortal: StartMortal) -> ServeMortal:
    """serve_mortal(tables, function, env, traced=False) -> the function, ready, which dies where it is told."""

    def serve(tables: str, function: str, env: Mapping[str, str], *, traced: bool = False) -> Mortal:
        command = ["shared.server", "--source", f"functions/{function}/main.py", "--target", "handle", "--port", "PORT"]
        mortal = start_mortal(tables, command, env, traced=traced)
        mortal.process.wait_ready()
        if traced:
            mortal.forget()  # what it answered to be found ready
        return mortal

    return serve


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., stack.Process]]:
    """serve("notify", env) -> that function in its own process, ready, until the module's end."""
    made: list[stack.Process] = []

    def start(name: str, env: Mapping[str, str]) -> stack.Process:
        made.append(stack.start_function(name, env, tmp_path_factory.mktemp("function") / "log.txt"))
        return made[-1]

    yield start
    for process in reversed(made):
        process.kill()


@pytest.fixture(scope="module")
def unused_address() -> Iterator[str]:
    """host:port where nothing answers."""
    with socket.socket() as held:
        held.bind((child.LOOPBACK, 0))
        yield f"{child.LOOPBACK}:{held.getsockname()[1]}"
