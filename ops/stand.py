"""A running system for a command that needs one: the one of this checkout where there is one, else one that ends with the command."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ops import child, home, programs
from ops.up import PORTS
from shared import errors

_START_S = 600.0  # the first start fetches Kafka
_STOP_S = 60.0


@contextmanager
def running(state: Path, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """What the run file of `state` says of a system that is ready. Raises Unavailable when it does not get ready."""
    told = home.read_run(state)
    if told is not None:
        say(f"using the system that runs already (process {told['pid']})")
        yield _ready(state, lambda: home.read_run(state) is not None)
        return
    command = [sys.executable, "-c", "from ops import command; command.main()", "up", "--quiet", *_options(say)]
    # In its own session, so that Ctrl-C reaches this command only, which then ends it in good order.
    process = subprocess.Popen(
        child.guarded(command, signal.SIGTERM), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    heard = _Ear(process, say)
    try:
        yield _ready(state, lambda: process.poll() is None, heard)
    finally:
        heard.quiet = True
        child.end(process, _STOP_S)
        heard.join()


class _Ear(threading.Thread):
    """Passes on what `up` says while it starts, and goes on listening afterwards so that it never has to wait."""

    def __init__(self, process: "subprocess.Popen[str]", say: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self.quiet, self._process, self._say = False, process, say
        self.start()

    def run(self) -> None:
        for line in self._process.stdout or ():
            if not self.quiet:
                self._say(line.rstrip())
        if self._process.stdout:
            self._process.stdout.close()


def _ready(state: Path, alive: Callable[[], bool], heard: _Ear | None = None) -> dict[str, Any]:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and alive():
        told = home.read_run(state)
        if told is not None and told.get("ready"):
            if heard is not None:
                heard.quiet = True
            return told
        time.sleep(0.1)
    if heard is not None and not alive():
        heard.join(2)
        raise errors.Unavailable("the system did not start; what it said stands above", code="not_started")
    raise errors.Unavailable(f"the system that runs with {state} is not ready; `orderflow status` shows why", code="not_ready")


def _options(say: Callable[[str], None]) -> list[str]:
    """Nothing where the usual ports are free or the environment chooses some, else others."""
    if any(f"ORDERFLOW_{name}" in os.environ for name in ("PORT_BASE", "KAFKA_PORT", "POSTGRES_PORT")) or _free(PORTS):
        return []
    for _ in range(100):
        base = random.randrange(20_000, 32_000)  # noqa: S311 - not a secret
        ports = programs.Ports.near(base)
        if _free(ports):
            say(f"the usual ports are taken: using {base} and those after it")
            return ["--port-base", str(base), "--kafka-port", str(ports.kafka), "--postgres-port", str(ports.postgres)]
    raise errors.Unavailable("no free ports were found", code="port_taken")


def _free(ports: programs.Ports) -> bool:
    return all(map(child.is_free, ports.all()))
