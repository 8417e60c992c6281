"""Runs a real program, unchanged, which dies exactly where it is told to.

    python -m tests.kills.dying TABLES FOLDER -- MODULE ARGUMENT…

Runs `python -m MODULE ARGUMENT…` with every step of TABLES (tests/kills/points.py, separated by commas) wrapped. At each passage the file
FOLDER/order is looked at: `kill before claim` makes the process write FOLDER/reached, so that it is on disk, and kill itself with SIGKILL
there and then; `term …` makes it send itself SIGTERM there, and go on. An order is carried out once. Where FOLDER/trace is there already,
each passage and each SQL statement is appended to it. A step whose name is no longer there ends the program at once.
"""

import functools
import importlib
import inspect
import os
import runpy
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kills import points
from tests.kills.points import Step, When

STATEMENTS = "shared.connection:Connection.run"


class Watch:
    """The steps of this process."""

    def __init__(self, folder: Path) -> None:
        self._order, self._reached, self._trace = folder / "order", folder / "reached", folder / "trace"
        self._traces = self._trace.exists()
        self._statements: list[Step] = []
        self._gate = threading.Lock()
        self._thread = threading.local()

    def over(self, step: Step) -> None:
        """Wrap what runs `step`. Raises LookupError when it is not there."""
        if step.target.startswith("sql:"):
            self._statements.append(step)
        else:
            replace(step.target, lambda found: self._around(step, found))

    def over_statements(self) -> None:
        """Wrap the one place where SQL is run."""

        def around(found: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(found)
            def run(connection: Any, sql: str, params: dict[str, object]) -> Any:
                text = " ".join(sql.split())
                steps = [step for step in self._statements if step.target.removeprefix("sql:") in text and self._counts(step)]
                self._note(f"{'step' if steps else 'sql'} {text}")
                for step in steps:
                    self._passed("before", step)
                rows = found(connection, sql, params)
                for step in steps:
                    self._passed("after", step)
                return rows

            return run

        replace(STATEMENTS, around)

    def _around(self, step: Step, found: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(found):

            async def run_async(*args: Any, **named: Any) -> Any:
                self._passed("before", step)
                result = await found(*args, **named)
                self._passed("after", step)
                return result

            return functools.wraps(found)(run_async)

        def run(*args: Any, **named: Any) -> Any:
            self._passed("before", step)
            result = found(*args, **named)
            self._passed("after", step)
            return result

        return functools.wraps(found)(run)

    def _counts(self, step: Step) -> bool:
        return not step.since or step.since in self._passed_by_thread

    @property
    def _passed_by_thread(self) -> set[str]:
        if not hasattr(self._thread, "passed"):
            self._thread.passed = set()
        found: set[str] = self._thread.passed
        return found

    def _passed(self, when: When, step: Step) -> None:
        if when == "after":
            self._passed_by_thread.discard(step.since)
            self._passed_by_thread.add(step.name)
        self._note(f"{when} {step.name}")
        with self._gate:
            try:
                how, _, where = self._order.read_text(encoding="utf-8").partition(" ")
            except FileNotFoundError:
                return
            if where != f"{when} {step.name}":
                return
            self._order.unlink()
            _write(self._reached, where)
            os.kill(os.getpid(), signal.SIGTERM if how == "term" else signal.SIGKILL)
            while how == "kill":
                signal.pause()

    def _note(self, line: str) -> None:
        if self._traces:
            with self._trace.open("a", encoding="utf-8") as out:
                out.write(f"{threading.get_ident()} {line}\n")


def replace(target: str, made: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `made(found)` where `target` is. Raises LookupError when there is nothing of that name."""
    module, _, path = target.partition(":")
    *outer, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in outer:
        owner = _attribute(owner, part, target)
    wrapped = made(_attribute(owner, name, target))
    try:
        setattr(owner, name, wrapped)
    except TypeError:  # a class of C: whoever names it in that module gets a class made from it
        setattr(sys.modules[module], outer[-1], type(outer[-1], (owner,), {name: wrapped}))


def _attribute(owner: Any, name: str, target: str) -> Any:
    if not hasattr(owner, name):
        raise LookupError(f"{target} is no more: tests/kills/points.py has to follow what was changed")
    return getattr(owner, name)


def _write(file: Path, text: str) -> None:
    with file.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    folder = os.open(file.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def main() -> None:
    """The program, with its steps wrapped."""
    tables, folder, dashes, module, *arguments = sys.argv[1:]
    assert dashes == "--"
    watch = Watch(Path(folder))
    steps = {step.name: step for table in tables.split(",") for step in points.TABLES[table]}
    for step in steps.values():
        watch.over(step)
    watch.over_statements()
    sys.argv = [module, *arguments]
    # `python -m shared.server` imports itself by its own name, so that it is there already costs nothing.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
