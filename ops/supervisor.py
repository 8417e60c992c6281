"""Processes kept running: started when what they need is ready, started again when they end, stopped in reverse, gone with their parent."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ops.journal import Journal
from shared import errors

State = Literal["starting", "ready", "restarting", "stopping", "stopped"]

PROBE_EVERY_S = 0.1
RESTART_FIRST_S, RESTART_MAX_S = 0.5, 10.0
HEALTHY_AFTER_S = 30.0  # one that ran so long starts its back-off anew
_LINE_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Program:
    """What to run, and how to tell that it is ready. `command` must already end with its parent: see child.guarded."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    ready: Callable[[], object]  # raises while it is not; called in a thread
    stop_signal: signal.Signals = signal.SIGTERM
    clean_exits: frozenset[int] = frozenset({0})
    ready_within_s: float = 60.0
    stop_within_s: float = 15.0
    restart_max_s: float = RESTART_MAX_S  # what the wait before a restart grows to
    cwd: str | None = None


@dataclass
class Running:
    """One program and what became of it."""

    program: Program
    state: State = "starting"
    pid: int | None = None
    restarts: int = 0
    process: asyncio.subprocess.Process | None = None
    keeper: "asyncio.Task[None] | None" = None
    readers: "list[asyncio.Task[None]]" = field(default_factory=list)


class Supervisor:
    """Runs programs, from one event loop in the thread that lives longest: the kernel ends a child with the thread that started it."""

    def __init__(self, journal: Journal, changed: Callable[[], None] = lambda: None) -> None:
        self.running: dict[str, Running] = {}
        self._journal = journal
        self._changed = changed

    async def start(self, program: Program) -> None:
        """Start it and wait until it is ready; from then on it is kept running.

        Raises Unavailable when it ends before, or is not ready in time, with what its probe and its log said last.
        """
        one = self.running[program.name] = Running(program)
        began = time.monotonic()
        fault = await self._until_ready(one, await self._spawn(one))
        if fault:
            one.state = "stopped"
            said = "".join(f"\n  | {line}" for line in self._journal.tail(program.name)[-10:])
            raise errors.Unavailable(f"{program.name} did not get ready: {fault}{said}", code="not_ready")
        self._note(one, "ready", f"{program.name} is ready after {time.monotonic() - began:.1f} s")
        one.keeper = asyncio.create_task(self._keep(one))

    async def stop(self, *tiers: Sequence[str]) -> None:
        """Stop all, tier by tier: those of one tier together. A program in no tier is stopped with the first."""
        self._let_go()
        named = {name for tier in tiers for name in tier}
        first = [name for name in self.running if name not in named]
        for tier in (first, *tiers):
            await asyncio.gather(*(self._stop(self.running[name]) for name in tier if name in self.running))

    def kill(self) -> None:
        """kill -9 of all, at once."""
        self._let_go()
        for one in self.running.values():
            _signal(one, signal.SIGKILL)

    def _let_go(self) -> None:
        """From now on what ends stays ended."""
        for one in self.running.values():
            if one.keeper is not None:
                one.keeper.cancel()

    async def _spawn(self, one: Running) -> asyncio.subprocess.Process:
        program = one.program
        process = one.process = await asyncio.create_subprocess_exec(
            *program.command, env=dict(program.env), cwd=program.cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, limit=_LINE_BYTES_MAX,
        )  # fmt: skip
        one.pid = process.pid
        if process.stdout is not None:
            one.readers.append(asyncio.create_task(self._read(process.stdout, program.name)))
        self._changed()
        return process

    async def _read(self, out: asyncio.StreamReader, name: str) -> None:
        while True:
            try:
                line = await out.readuntil(b"\n")
            except asyncio.IncompleteReadError as exc:
                if exc.partial:
                    self._journal.say(name, exc.partial.decode("utf-8", "replace"))
                return
            except asyncio.LimitOverrunError as exc:
                line = await out.readexactly(exc.consumed)
            self._journal.say(name, line.decode("utf-8", "replace"))

    async def _until_ready(self, one: Running, process: asyncio.subprocess.Process) -> str:
        """Wait for the probe. Why it is not ready, or nothing."""
        deadline, last = time.monotonic() + one.program.ready_within_s, "its probe was never called"
        while time.monotonic() < deadline:
            if process.returncode is not None:
                await asyncio.sleep(0.1)  # its last lines are still on their way
                return f"it ended ({_meaning(process.returncode)})"
            try:
                await asyncio.to_thread(one.program.ready)
            except Exception as exc:  # noqa: BLE001 - whatever a probe says, it is shown at the deadline
                last = str(exc) or type(exc).__name__
                await asyncio.sleep(PROBE_EVERY_S)
            else:
                return ""
        return f"not within {one.program.ready_within_s:.0f} s; the last answer was: {last}"

    async def _keep(self, one: Running) -> None:
        wait_s, process = RESTART_FIRST_S, one.process
        while process is not None:
            began = time.monotonic()
            code = await process.wait()
            if time.monotonic() - began > HEALTHY_AFTER_S:
                wait_s = RESTART_FIRST_S
            self._note(one, "restarting", f"{one.program.name} ended ({_meaning(code)}); it is started again in {wait_s:g} s")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, one.program.restart_max_s)
            one.restarts += 1
            one.readers[:] = [reader for reader in one.readers if not reader.done()]
            process = await self._spawn(one)
            fault = await self._until_ready(one, process)
            if not fault:
                self._note(one, "ready", f"{one.program.name} is ready again")
            elif process.returncode is None:
                self._note(one, "restarting", f"{one.program.name} runs but is not ready: {fault}")
                _signal(one, signal.SIGKILL)

    async def _stop(self, one: Running) -> None:
        process = one.process
        if process is None:
            return
        one.state = "stopping"
        if process.returncode is None:
            _signal(one, one.program.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), one.program.stop_within_s)
            except TimeoutError:
                self._journal.say("up", f"{one.program.name} did not end within {one.program.stop_within_s:.0f} s: kill -9")
                _signal(one, signal.SIGKILL)
                await process.wait()
            if process.returncode not in one.program.clean_exits:
                self._journal.say("up", f"{one.program.name} ended with exit code {process.returncode}")
        if one.readers:
            await asyncio.wait(one.readers, timeout=2)
        for reader in one.readers:
            reader.cancel()
        one.state, one.pid = "stopped", None
        self._changed()

    def _note(self, one: Running, state: State, line: str) -> None:
        one.state = state
        self._journal.say("up", line)
        self._changed()


async def together(*work: Coroutine[Any, Any, object]) -> None:
    """Wait for all; the first failure ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as exc:
        raise exc.exceptions[0] from exc


def _signal(one: Running, number: signal.Signals) -> None:
    if one.process is not None and one.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, number)


def _meaning(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
