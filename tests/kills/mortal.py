"""A process that dies where a test says, and what its trace tells."""

import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx

from ops import child
from tests import stack
from tests.kills.points import Point, Step

# Statements that are no step: with none of them anything is done that could be lost or done twice.
NO_STEP = ("BEGIN", "ROLLBACK", "SET LOCAL", "SELECT", "LISTEN")


class Mortal:
    """A real program below `python -m tests.kills.dying`, with the steps of `tables` (separated by commas)."""

    def __init__(
        self, tables: str, command: Sequence[str], env: Mapping[str, str], folder: Path, url: str, point: Point | None, *, traced: bool
    ) -> None:
        self._folder = folder
        if traced:
            (folder / "trace").touch()
        if point is not None:
            self.order(point)
        dying = [sys.executable, "-m", "tests.kills.dying", tables, str(folder), "--", *command]
        self.process = stack.Process(child.guarded(dying), env, folder / "log.txt", url=url)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.process.url

    def order(self, point: Point, how: Literal["kill", "term"] = "kill") -> None:
        """Have it die at its next passage of `point`, or be asked to end there."""
        (self._folder / "reached").unlink(missing_ok=True)
        aside = self._folder / "order.new"
        aside.write_text(f"{how} {point}", encoding="utf-8")
        aside.rename(self._folder / "order")

    def died(self, point: Point) -> None:
        """Wait for its death; it must have been killed exactly there, and by its own hand."""
        assert (self._ended(), self._reached()) == (-signal.SIGKILL, str(point)), self.process.text[-3000:]

    def drained(self, point: Point) -> None:
        """Wait for its end; it must have been asked exactly there, and have ended in good order."""
        assert (self._ended(), self._reached()) == (0, str(point)), self.process.text[-3000:]

    def again(self) -> None:
        """Start it again, as it was, and wait until it is ready."""
        self.process.start()
        self.process.wait_ready()

    def fresh(self) -> None:
        """Have a process in which nothing of earlier work is going on."""
        self.process.kill()
        self.again()

    def forget(self) -> None:
        """Begin its trace anew, once what it does is done."""

        def done() -> bool:
            what = Counter(passage.partition(" ")[0] for _, passage in self.trace())
            return what["before"] == what["after"]

        stack.eventually(done, "what it does to be done")
        (self._folder / "trace").write_text("", encoding="utf-8")

    def trace(self) -> list[tuple[str, str]]:
        """What it has passed, as thread and passage, in this order."""
        lines = (self._folder / "trace").read_text(encoding="utf-8").splitlines()
        return [(thread, passage) for thread, _, passage in (line.partition(" ") for line in lines)]

    def has_passed(self, steps: Iterable[Step]) -> bool:
        """Whether it has passed each of `steps`."""
        passed = {passage for _, passage in self.trace()}
        return all({f"before {step.name}", f"after {step.name}"} <= passed for step in steps)

    def _ended(self) -> int:
        return self.process.wait()

    def _reached(self) -> str:
        file = self._folder / "reached"
        return file.read_text(encoding="utf-8") if file.exists() else "nowhere"


def uncovered(trace: Sequence[tuple[str, str]]) -> list[str]:
    """The SQL statements of a trace that are neither a step themselves nor within a step that has no other steps in it."""
    open_in: dict[str, list[str]] = defaultdict(list)
    outer: set[str] = set()
    alone: list[tuple[str, str]] = []
    for thread, passage in trace:
        what, _, name = passage.partition(" ")
        inside = open_in[thread]
        if what == "before":
            outer.update(inside)
            inside.append(name)
        elif what == "after":
            inside.remove(name)
        elif what == "sql" and not name.startswith(NO_STEP):
            alone.append((inside[-1] if inside else "", name))
    return [statement for step, statement in alone if not step or step in outer]


def order_of(trace: Sequence[tuple[str, str]], steps: Sequence[Step]) -> list[str]:
    """The names of `steps` in the order in which they were first begun."""
    begun = [passage.removeprefix("before ") for _, passage in trace if passage.startswith("before ")]
    return sorted((step.name for step in steps), key=begun.index)


def attempt(url: str, **request: Any) -> httpx.Response | None:
    """The answer to a POST; None where the connection ended without one."""
    try:
        return httpx.post(url, timeout=60, **request)
    except (httpx.NetworkError, httpx.RemoteProtocolError):
        return None
