"""`make up-docker` and `make down-docker` find the Compose that is there, and say what is missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ops import home

TOOLS = ("bash", "cat", "cut", "id", "sha256sum")
# Each writes down what it was called with. `docker compose` is there when COMPOSE names its version, `docker info` answers with INFO.
DOCKER = """#!/bin/bash
echo "docker $*" >> "$CALLS"
case "$1 ${2-}" in
  "compose version") test -n "${COMPOSE-}" && echo "$COMPOSE" ;;
  "compose "*) ;;
  "info ") exit "${INFO-0}" ;;
esac
"""
V1 = """#!/bin/bash
echo "docker-compose $*" >> "$CALLS"
if [ "$1" = version ]; then echo "${V1-1.29.2}"; fi
"""


class Machine:
    """A machine with these commands and no others."""

    def __init__(self, folder: Path, *commands: str) -> None:
        self.calls = folder / "calls"
        self.calls.touch()
        self._path = folder / "bin"
        self._path.mkdir()
        for tool in TOOLS:
            (self._path / tool).symlink_to(shutil.which(tool) or tool)
        for name in commands:
            (self._path / name).write_text(DOCKER if name == "docker" else V1, encoding="utf-8")
            (self._path / name).chmod(0o755)

    def make(self, *words: str, **env: str) -> tuple[int, str]:
        """Run make: its exit code, and the last line but make's own of what it said."""
        done = subprocess.run(
            [shutil.which("make") or "make", *words],
            cwd=home.CHECKOUT,
            env={"PATH": str(self._path), "HOME": os.environ.get("HOME", "/"), "CALLS": str(self.calls), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        said = [line for line in done.stdout.splitlines() if not line.startswith("make")]
        return done.returncode, said[-1] if said else ""

    def called(self) -> list[str]:
        """What brought anything up or down."""
        return [
            line for line in self.calls.read_text(encoding="utf-8").splitlines() if " up " in line or line.endswith((" down", " down -v"))
        ]


@pytest.mark.parametrize(("env", "compose"), [({"COMPOSE": "2.40.3"}, "docker compose"), ({}, "docker-compose")], ids=["v2", "v1"])
def test_everything_goes_up_and_down_with_the_compose_that_is_there(tmp_path: Path, env: dict[str, str], compose: str) -> None:
    machine = Machine(tmp_path, "docker", "docker-compose")

    codes = [machine.make(*words, **env)[0] for words in (["up-docker"], ["down-docker"], ["down-docker", "ARGS=-v"])]

    assert codes == [0, 0, 0]
    assert [line.strip() for line in machine.called()] == [f"{compose} up --detach --build", f"{compose} down", f"{compose} down -v"]


def test_where_things_are_is_said_at_the_end(tmp_path: Path) -> None:
    assert Machine(tmp_path, "docker", "docker-compose").make("up-docker", ORDERS_PORT="18080") == (
        0,
        "orders: http://127.0.0.1:18080/orders  Kafka: localhost:19092  PostgreSQL: localhost:15432",
    )


@pytest.mark.parametrize(
    ("commands", "env", "told"),
    [
        ([], {}, "Docker is missing: apt-get install docker.io docker-compose"),
        (["docker"], {}, "Docker Compose is missing: apt-get install docker-compose, or Docker's own docker-compose-plugin"),
        (["docker", "docker-compose"], {"V1": "1.25.0"}, "docker-compose 1.25.0 is too old, 1.29 or newer is needed"),
        (
            ["docker", "docker-compose"],
            {"INFO": "1", "DOCKER_HOST": "unix:///nowhere"},
            "Docker does not answer at unix:///nowhere: is it started",
        ),
    ],
    ids=["docker", "compose", "old", "engine"],
)
@pytest.mark.parametrize("target", ["up-docker", "down-docker"])
def test_what_is_missing_is_said(tmp_path: Path, target: str, commands: list[str], env: dict[str, str], told: str) -> None:
    machine = Machine(tmp_path, *commands)

    code, said = machine.make(target, **env)

    assert (code, said[: len(told)], machine.called()) == (2, told, [])
