"""Containers of the images that `make images-check` has built: started as a cluster would start them, gone when the test is over."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx
import pytest

from ops import child
from ops.deployments import functions
from ops.images import build, report
from tests import stack

# What `make images-check` sets: the base of the images that it has built.
BASE = os.environ.get("ORDERFLOW_IMAGES", "")
needs_images = pytest.mark.skipif(not BASE, reason="containers: `make images-check` runs these")


@dataclass
class Container:
    """A running container on the host's network."""

    id: str
    port: int

    @property
    def url(self) -> str:
        """Where it answers, if it does."""
        return f"http://{child.LOOPBACK}:{self.port}"

    @property
    def log(self) -> str:
        """What it has logged, on both streams."""
        return build.docker("logs", self.id)

    def run(self, *command: str) -> str:
        """What a command in it prints."""
        return build.docker("exec", self.id, *command)

    def wait_ready(self, path: str = "/_/ready") -> None:
        """Wait for GET `path` to answer 200."""

        def answers() -> bool:
            assert self.state("Running") == "true", self.log
            return httpx.get(self.url + path, timeout=5).status_code == 200

        stack.eventually(answers, f"{self.url}{path}")

    def state(self, name: str) -> str:
        """One fact of its state: Running, ExitCode."""
        return build.docker("inspect", "--format", f"{{{{.State.{name}}}}}", self.id).strip()

    def terminate(self) -> None:
        """Send it SIGTERM, as an orchestrator does, and do not wait."""
        build.docker("kill", "--signal", "TERM", self.id)


Start = Callable[..., Container]


def own(name: str, database: stack.TestDatabase) -> dict[str, str]:
    """The setting that the function `name` (of its folder or its service) connects by, with its own role."""
    (found,) = (function for function in functions.functions() if name in {function.name, function.service})
    return {found.dsn_setting: database.dsn(found.role)}


def tag(name: str) -> str:
    """The image `name`: notify, dlq-router, connectors, …"""
    return next(image.tag for image in build.images() if image.name == name)


def once(name: str, *command: str, settings: Mapping[str, str] | None = None, mounts: Sequence[str] = ()) -> str:
    """What `command` prints in a container of its own of the image `name`. Raises DockerFailed when it does not end with 0."""
    return build.docker("run", "--rm", *report.RESTRICTED, *_options(settings or {}, mounts), tag(name), *command)


@pytest.fixture
def start() -> Iterator[Start]:
    """start("notify", settings, *command) -> that image's container; with no command it runs as OpenFaaS would run it."""
    made: list[str] = []

    def begin(name: str, settings: Mapping[str, str], *command: str) -> Container:
        (port,) = child.free_ports(1)
        (upstream,) = child.free_ports(1)
        # The port of the watchdog, of the server without one, and of the server behind one: all are the host's here.
        ports = {"port": str(port), "PORT": str(port), "upstream_url": f"http://{child.LOOPBACK}:{upstream}"}
        behind = {"fprocess": f"python -m shared.server --host {child.LOOPBACK} --port {upstream}"}
        options = _options({"HOST": child.LOOPBACK, **ports, **behind, **settings}, ())
        made.append(build.docker("run", "--detach", *report.RESTRICTED, *options, tag(name), *command).strip())
        return Container(made[-1], port)

    yield begin
    for container in made:
        build.docker("rm", "--force", container)


def _options(settings: Mapping[str, str], mounts: Sequence[str]) -> list[str]:
    told = [part for name, value in settings.items() for part in ("--env", f"{name}={value}")]
    return told + [part for mount in mounts for part in ("--volume", mount)]
