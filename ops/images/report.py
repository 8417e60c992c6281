"""What each image weighs, how long it takes to answer, and what memory it holds while idle.

Own layers: the image's size less its base's. Cold start: from the moment at which the engine started the container's process to the first
200 of /ready, which asks the database (of a function that speaks to Kafka, whose /ready asks that first: of /metrics, which reads the
index of letters); `python -m shared.server` in the image, with no watchdog before it; the median of several. Memory:
the container's, as the engine counts it (without file cache that can be dropped), once that 200 was sent.
"""

import contextlib
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ops import child, migrations, postgres, roles
from ops.deployments import functions
from ops.images import build
from ops.images.build import DockerFailed, Image, docker

RUNS = 5
PATIENCE_S = 30.0
# How every container is started, here and in tests: as a cluster would, with nothing that it does not need.
RESTRICTED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host")  # noqa: S108
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Figures:
    """What was measured of one image; the source, the relay and the command are not measured as functions are."""

    image: Image
    own_bytes: int
    cold_start_s: float | None = None
    idle_bytes: int | None = None


def measure(environ: Mapping[str, str], base: str, runs: int = RUNS) -> Iterator[Figures]:
    """The figures of every image that `build` has made. Raises DockerFailed."""
    below = _size(base, environ)
    declared = {function.name: function for function in functions.functions()}
    with _database() as dsn_of:
        for image in build.images(environ):
            own = _size(image.tag, environ) - below
            if not image.function:
                yield Figures(image, own)
                continue
            function = declared[image.function]
            settings = {function.dsn_setting: dsn_of[function.role]}
            path = "/metrics" if function.broker else "/ready"
            starts = [_start(image, settings, path, environ)[0] for _ in range(runs)]
            yield Figures(image, own, statistics.median(starts), _start(image, settings, path, environ, idle=True)[1])


def _start(image: Image, settings: Mapping[str, str], path: str, environ: Mapping[str, str], *, idle: bool = False) -> tuple[float, int]:
    """Seconds from a container's start to its first answer, and where `idle` is asked for, the bytes that it then holds."""
    (port,) = child.free_ports(1)
    told = [
        part for name, value in {**settings, "HOST": child.LOOPBACK, "PORT": str(port)}.items() for part in ("--env", f"{name}={value}")
    ]
    container = docker("run", "--detach", *RESTRICTED, *told, image.tag, "python", "-m", "shared.server", environ=environ).strip()
    try:
        answered = _answered(f"http://{child.LOOPBACK}:{port}{path}", container, environ)
        started = docker("inspect", "--format", "{{.State.StartedAt}}", container, environ=environ).strip()
        used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container, environ=environ) if idle else "0B"
    finally:
        docker("rm", "--force", container, environ=environ)
    return answered - _moment(started), _bytes(used)


def _answered(url: str, container: str, environ: Mapping[str, str]) -> float:
    deadline = time.time() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own address
            if answer.status == 200:
                return time.time()
        if time.time() > deadline:
            raise DockerFailed(f"{url} does not answer 200: {docker('logs', container, environ=environ)[-1500:]}")
        time.sleep(0.002)


@contextlib.contextmanager
def _database() -> Iterator[dict[str, str]]:
    """A database of our own for as long as it takes: the DSN of each role."""
    with tempfile.TemporaryDirectory(prefix="orderflow-report-") as folder:
        server = postgres.Server(Path(folder), child.free_ports(1)[0])
        server.prepare()
        process = subprocess.Popen(server.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        try:
            postgres.wait_ready(server, lambda: process.poll() is None)
            server.set_up()
            migrations.upgrade(postgres.dsn(server.port, postgres.OWNER, postgres.OWNER_PASSWORD), create_roles=True)
            yield {role.name: postgres.dsn(server.port, role.name, role.password()) for role in roles.read()}
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def _size(tag: str, environ: Mapping[str, str]) -> int:
    return int(docker("image", "inspect", "--format", "{{.Size}}", tag, environ=environ))


def _moment(text: str) -> float:
    """2026-11-24T12:00:00.123456789Z, which has more digits than Python reads."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z$", r"\1+00:00", text)).timestamp()


def _bytes(text: str) -> int:
    """`34.5MiB / 23GiB`: the first of the two."""
    found = re.match(r"([\d.]+)([KMG]?i?B)", text)
    if found is None:
        raise DockerFailed(f"docker stats said {os.linesep.join(text.splitlines())!r}")
    return round(float(found[1]) * _UNITS[found[2]])
