"""Carries out what the schedule says, heals it again, and writes down what really took place."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable

import psutil

from chaos import record, schedule
from chaos.proxies import Proxies
from chaos.record import Journal
from chaos.schedule import Planned
from ops.supervisor import Supervisor
from shared import errors

_TOXICS = {"long_timeout": "timeout"}
FLOW_MESSAGES, FLOW_S = 20, 30.0
_ENDS_S = 30.0  # longer than the longest freeze, in which a request to end is not heard, and the drain after it


class Faults:
    """The faults of one run. `messages` tells how many have come out at the far end so far."""

    def __init__(self, journal: Journal, supervisor: Supervisor, proxies: Proxies, messages: Callable[[], int]) -> None:
        self.waited_s = 0.0
        self.airless = 0  # how often nothing came out in time although all was calm
        self._messages = messages
        self.took_place: Counter[tuple[str, str]] = Counter()
        self.missed = 0
        self.lasting: set[str] = set()
        self._journal, self._supervisor, self._proxies = journal, supervisor, proxies
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """How many took place."""
        return self.took_place.total()

    async def run(self, planned: Iterable[Planned], *, seconds: float, at_least: int) -> None:
        """Carry out faults for `seconds`, and on until `at_least` took place. Returns when each is healed.

        A calm lasts longer where the machine is slow: until the system has shown that it works, or has not within FLOW_S.
        """
        began, cycle = time.monotonic(), 1
        for one in planned:
            if one.at_s > seconds and self.count >= at_least:
                break
            if one.at_s >= cycle * schedule.CYCLE_S:
                await self._calm(began + self.waited_s + cycle * schedule.CYCLE_S)
                cycle = int(one.at_s // schedule.CYCLE_S) + 1
            await asyncio.sleep(began + self.waited_s + one.at_s - time.monotonic())
            task = asyncio.create_task(self._carry_out(one))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.gather(*self._tasks)

    async def _calm(self, until: float) -> None:
        await asyncio.sleep(until - schedule.CALM_S - time.monotonic())
        before = self._messages()
        await asyncio.sleep(until - time.monotonic())
        while self._messages() < before + FLOW_MESSAGES:
            if time.monotonic() > until + FLOW_S:
                self.airless += 1
                break
            await asyncio.sleep(0.1)
        self.waited_s += max(0.0, time.monotonic() - until)

    async def heal(self) -> None:
        """End whatever still lasts."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for running in self._supervisor.running.values():
            for process in _tree(running.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        await self._proxies.heal()

    async def _carry_out(self, planned: Planned) -> None:
        name = f"{planned.kind} {planned.target}"
        detail = " ".join(f"{name}={value}" for name, value in planned.how.items())
        running = self._supervisor.running.get(planned.target)
        pid = running.pid if running else None
        fault = self._journal.begin(record.Fault, kind=planned.kind, target=planned.target, detail=detail, pid=pid)
        self.lasting.add(name)
        done, result = False, "cancelled"
        try:
            done, result = True, await (self._at_process(planned) if running else self._at_link(planned))
        except (errors.Unavailable, ProcessLookupError, psutil.NoSuchProcess) as exc:
            done, result = False, str(exc)
        finally:
            self.lasting.discard(name)
            self.took_place[planned.kind, planned.target] += done
            self.missed += not done
            self._journal.end(fault, done=done, ended_at=time.time(), result=result)

    async def _at_process(self, planned: Planned) -> str:
        running = self._supervisor.running[planned.target]
        process = running.process
        if process is None or process.returncode is not None:
            raise ProcessLookupError("it was down already")
        if planned.kind in {"freeze", "long_freeze"}:
            return await _freeze(process.pid, planned.lasts_s)
        process.send_signal(signal.SIGKILL if planned.kind == "kill" else running.program.stop_signal)
        try:
            return f"exit code {await asyncio.wait_for(process.wait(), _ENDS_S)}"
        except TimeoutError:
            process.kill()
            return f"it did not end within {_ENDS_S:.0f} s: kill -9"

    async def _at_link(self, planned: Planned) -> str:
        link, toxic = planned.target, f"fault-{planned.n}"
        if planned.kind == "disabled":
            await self._proxies.refuse(link, refused=True)
            try:
                await asyncio.sleep(planned.lasts_s)
            finally:
                await self._proxies.refuse(link, refused=False)
            return "healed"
        how = dict(planned.how)
        await self._proxies.poison(link, toxic, _TOXICS.get(planned.kind, planned.kind), how.pop("stream"), how)
        try:
            await asyncio.sleep(planned.lasts_s)
        finally:
            await self._proxies.cure(link, toxic)
        return "healed"


async def _freeze(pid: int, lasts_s: float) -> str:
    frozen = []
    try:
        for process in _tree(pid):  # the parent first: it makes no more children then
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                frozen.append(process)
        await asyncio.sleep(lasts_s)
    finally:
        alive = 0
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
                alive += 1
    if not frozen:
        raise ProcessLookupError("it was gone before it was frozen")
    return "thawed" if alive else "killed while it was frozen"


def _tree(pid: int | None) -> list[psutil.Process]:
    if pid is None:
        return []
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def by_kind_and_target(took_place: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """The counts as a report has them: kind, then target."""
    kinds = (*schedule.OF_PROCESSES, *schedule.OF_LINKS)
    return {kind: {target: n for (of, target), n in sorted(took_place.items()) if of == kind and n} for kind in kinds}
