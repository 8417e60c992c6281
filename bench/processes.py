"""Processes that are measured: started the way users start them, their output in files, gone with the run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

from ops import child, home

T = TypeVar("T")
START_S = 60.0
STOP_S = 30.0


class BenchError(Exception):
    """A row could not be measured, or its result is wrong."""


class Process:
    """A process of the run. `name` is what the report calls it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        *,
        url: str = "",
        dies_by: signal.Signals = signal.SIGKILL,
        guarded: bool = False,
        cwd: str | None = None,
    ) -> None:
        self.name, self.url = name, url
        self.out, self.log = folder / f"{name}.out", folder / f"{name}.log"
        with self.out.open("wb") as out, self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                command if guarded else child.guarded(command, dies_by),
                env=child.environment(**env),
                cwd=cwd or home.CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its id."""
        return self._popen.pid

    def check(self) -> None:
        """Raise BenchError, with the end of its log, when it has ended."""
        if self._popen.poll() is not None:
            raise BenchError(f"{self.name} ended with {self._popen.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """The last it wrote."""
        text = self.out.read_bytes()[-2000:] + self.log.read_bytes()[-3000:]
        return text.decode("utf-8", "replace")

    def wait_ready(self, *, any_answer: bool = False) -> None:
        """Wait for GET /health to answer 200, or with `any_answer` anything: not everybody has such a route."""

        def healthy() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/health", timeout=2, trust_env=False).status_code == 200 or any_answer
            return False

        eventually(healthy, f"{self.name} at {self.url}", START_S, [self])

    def result(self, within_s: float) -> dict[str, Any]:
        """What a program prints as its last line, in JSON, once it has ended well."""
        try:
            code = self._popen.wait(within_s)
        except subprocess.TimeoutExpired as exc:
            raise BenchError(f"{self.name} did not end within {within_s:.0f} s:\n{self.tail()}") from exc
        if code:
            raise BenchError(f"{self.name} ended with {code}:\n{self.tail()}")
        found: dict[str, Any] = json.loads(self.out.read_text(encoding="utf-8").splitlines()[-1])
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, and see to it that it does."""
        if self._popen.poll() is None:
            self._popen.send_signal(number)
        try:
            self._popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()


def eventually(look: Callable[[], T], what: str, within_s: float, running: Sequence[Process] = (), every_s: float = 0.02) -> T:
    """The first truthy answer of `look`. Raises BenchError when there is none in time, or when one of `running` ends before."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        for process in running:
            process.check()
        if time.monotonic() > deadline:
            raise BenchError(f"waited {within_s:.0f} s for {what}" + "".join(f"\n{one.name}:\n{one.tail()}" for one in running))
        time.sleep(every_s)


def python(module: str, *arguments: str) -> list[str]:
    """The command of a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
