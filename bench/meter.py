"""CPU and memory of processes and their children, looked at a few times a second; what was used between two moments is interpolated."""

import bisect
import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_S = 0.2
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Look:
    """What each process, with its children, has used by `at` (seconds since 1970), and how much memory it holds."""

    at: float
    cpu_s: Mapping[str, float]
    rss_mib: Mapping[str, float]


class Meter(threading.Thread):
    """Looks at the processes `roots` (name → id) until `stop`."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        super().__init__(name="meter", daemon=True)
        self.looks: list[Look] = []
        self._known: dict[int, psutil.Process] = {}
        self._roots = dict(roots)
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        """The thread."""
        while True:
            self.looks.append(self._look())
            if self._ended.wait(EVERY_S):
                self.looks.append(self._look())
                return

    def stop(self) -> None:
        """Look a last time, and end. Before the processes are stopped."""
        self._ended.set()
        self.join()

    def cpu_s(self, start: float, end: float) -> dict[str, float]:
        """Seconds of CPU that each process used between two moments."""
        return {name: used(self.looks, name, start, end) for name in self._roots}

    def rss_mib(self, start: float, end: float) -> dict[str, float]:
        """The most memory that each process held between two moments."""
        seen = [look.rss_mib for look in self.looks if start - EVERY_S <= look.at <= end + EVERY_S]
        return {name: max((rss.get(name, 0.0) for rss in seen), default=0.0) for name in self._roots}

    def _look(self) -> Look:
        cpu_s: dict[str, float] = {}
        rss_mib: dict[str, float] = {}
        for name, pid in self._roots.items():
            cpu_s[name], rss_mib[name] = self._of(pid)
        return Look(time.time(), cpu_s, rss_mib)

    def _of(self, root: int) -> tuple[float, float]:
        # A child that has ended is in its parent's children_* times, so nothing is lost when a database session ends.
        cpu_s, own, shared = 0.0, 0, 0
        waiting = [root]
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(psutil.Error, OSError):
                process = self._known.get(pid) or self._known.setdefault(pid, psutil.Process(pid))
                times, memory = process.cpu_times(), process.memory_info()
                cpu_s += times.user + times.system + times.children_user + times.children_system
                own += memory.rss - memory.shared
                shared = max(shared, memory.shared)  # PostgreSQL's sessions share most of theirs
                waiting += _children(pid)
        return cpu_s, (own + shared) / MIB


def used(looks: list[Look], name: str, start: float, end: float) -> float:
    """Seconds of CPU between two moments, between looks in proportion."""
    return max(0.0, _at(looks, name, end) - _at(looks, name, start))


def _at(looks: list[Look], name: str, moment: float) -> float:
    if not looks:
        return 0.0
    after = bisect.bisect_left([look.at for look in looks], moment)
    if after == 0:
        return looks[0].cpu_s.get(name, 0.0)
    if after == len(looks):
        return looks[-1].cpu_s.get(name, 0.0)
    one, other = looks[after - 1], looks[after]
    part = (moment - one.at) / (other.at - one.at) if other.at > one.at else 1.0
    was, became = one.cpu_s.get(name, 0.0), other.cpu_s.get(name, 0.0)
    return was + part * (became - was)


def _children(pid: int) -> list[int]:
    """The children of any thread of `pid`. psutil's own way reads every process of the machine."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, file.read_text().split())
    return found
