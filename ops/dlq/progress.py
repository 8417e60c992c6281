"""How a run is seen while it goes on: a bar with rate and time left on a terminal, a line for each item elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ops import terminal
from ops.dlq.behind import Behind
from ops.dlq.ledger import Item, Result

WORDS = {"done": "done", "duplicate": "duplicate", "failed_again": "failed again", "written": "written", "skipped": "skipped"}
FAILURES_KEPT = 1000


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.0f}/s", style="progress.data.speed")


class Progressing:
    """The view of one run: the bar on standard error, the lines on standard output, each as it is a terminal or not.

    `quiet` prints no lines: the summary is to be JSON.
    """

    def __init__(self, total: int, done: int, *, quiet: bool) -> None:
        self.failures: list[dict[str, str]] = []
        self.failed = 0
        self.behind: Behind | None = None
        self._lines = not quiet and not sys.stdout.isatty()
        self._waiting: dict[str, float] = {}
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if sys.stderr.isatty():
            self._bar = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(),
                console=Console(stderr=True, highlight=False), redirect_stdout=False,
            )  # fmt: skip
            self._task = self._bar.add_task("replaying", total=total, completed=done)

    @property
    def sent_behind(self) -> dict[str, int]:
        """What became of the events that were parked behind its letters."""
        return {} if self.behind is None else dict(self.behind.sent)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def result(self, item: Item, result: Result) -> None:
        """An item has its result: a line, on a terminal only for one that is not as it should be."""
        name = item.letter_id or item.event_id or f"item {item.n}"
        if result.status == "failed_again":
            self.failed += 1
            if len(self.failures) < FAILURES_KEPT:
                self.failures.append({"id": name, "consumer": item.consumer, "code": result.code, "detail": result.detail})
        reason = ": ".join(part for part in (result.code, result.detail) if part)
        if self._bar is not None:
            self._bar.advance(self._task)
            if not self._lines and result.status in {"failed_again", "skipped"}:
                style = "red" if result.status == "failed_again" else "yellow"
                self._bar.console.print(Text(f"{name}  {WORDS[result.status]}  {terminal.printable(reason.encode())}", style=style))
        if self._lines:
            terminal.table([name, WORDS[result.status], reason], [])

    def waits(self, where: str, reason: str | None) -> None:
        """What the items go to is away, or there again (no reason)."""
        if reason is not None and where not in self._waiting:
            self._waiting[where] = time.monotonic()
            self._say(f"waiting for {where}: {terminal.printable(reason.encode())} (Ctrl-C ends it; it can be resumed)")
        elif reason is None and (since := self._waiting.pop(where, None)) is not None:
            self._say(f"{where} is there again after {time.monotonic() - since:.0f} s")
        if self._bar is not None:
            self._bar.update(self._task, description="waiting" if self._waiting else "replaying")

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(Text(line, style="yellow"))
        else:
            terminal.note(line)
