"""What is shown while a run lasts, and what is written about it afterwards."""

import dataclasses
import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from chaos import faults as faults_module
from chaos.faults import Faults
from chaos.load import Load
from chaos.record import Record
from chaos.telegram import Telegram
from chaos.verdict import Verdict
from ops import home

CASES_SHOWN = 20


class Progress:
    """Says what happens: a line that is renewed on a terminal, lines one after another elsewhere."""

    def __init__(self, out: TextIO) -> None:
        self.console = Console(file=out, highlight=False, soft_wrap=True)
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(f"{self._at()} {text}", markup=False)

    def show(self, text: str) -> None:
        """How far it has come: the next such line takes its place on a terminal."""
        if self.console.is_terminal:
            self.console.print(f"\r\033[K{self._at()} {text}"[: self.console.width + 4], end="", markup=False)
        else:
            self.say(text)

    def _at(self) -> str:
        return f"{time.monotonic() - self._began:6.1f} s"


@dataclass(frozen=True, slots=True)
class Run:
    """A run that came to its end."""

    seed: int
    faults_wanted: int
    seconds: float
    record: Record
    verdict: Verdict
    stuck: list[str]
    ends: dict[str, dict[str, int]]

    @property
    def faults(self) -> int:
        """How many took place."""
        return sum(fault.done for fault in self.record.faults)

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, doubled, disordered or stuck."""
        return self.verdict.passed and not self.stuck and self.faults >= self.faults_wanted


def line(faults: Faults, load: Load, telegram: Telegram, left: str) -> str:
    """How far a run has come. `left` is what is not yet drained, once it is to drain."""
    now = left or f"now: {', '.join(sorted(faults.lasting)) or 'none'}"
    sent = load.counts
    return (
        f"{faults.count} faults; {sent['order answered']}/{sent['order']} orders, {sent['event']} events, "
        f"{sent['duplicate'] + sent['reordered']} repeats, {sent['poison']} poison, {telegram.taken} messages; {now}"
    )


def ends(log: Path) -> dict[str, dict[str, int]]:
    """How often each process ended, and how, by the supervisor's log."""
    counted: dict[str, Counter[str]] = {}
    for name, how in re.findall(r"^(\S+) ended \((.+?)\); it is started again", log.read_text(encoding="utf-8"), re.MULTILINE):
        counted.setdefault(name, Counter())[how] += 1
    return {name: dict(sorted(how.items())) for name, how in sorted(counted.items())}


def as_json(run: Run) -> dict[str, Any]:
    """The report: numbers first, then every case by name."""
    verdict = run.verdict
    took_place = Counter((fault.kind, fault.target) for fault in run.record.faults if fault.done)
    cases = {"lost": verdict.lost, "doubled": verdict.doubled, "disordered": verdict.disordered, "repeats": verdict.explained}
    return {
        "passed": run.passed,
        "seed": run.seed,
        "seconds": round(run.seconds, 1),
        "faults": run.faults,
        "events": verdict.events,
        **{name: len(found) for name, found in cases.items()},
        "letters": verdict.letters,
        "republished": verdict.republished,
        "lag": dict(verdict.lag),
        "stuck": run.stuck,
        "summary": dict(verdict.summary()),
        "sent": dict(Counter(sent.kind for sent in run.record.sent)),
        "poison": dict(Counter(sent.note for sent in run.record.sent if sent.kind == "poison")),
        "telegram": dict(Counter(message.fault or "well" for message in run.record.telegrams)),
        "faults_by_kind_and_target": faults_module.by_kind_and_target(took_place),
        "faults_missed": sum(not fault.done for fault in run.record.faults),
        "ends": run.ends,
        "cases": {name: [dataclasses.asdict(case) for case in found] for name, found in cases.items()},
    }


def write(path: Path, run: Run) -> None:
    """Write the report."""
    home.write(path, json.dumps(as_json(run), indent=2, ensure_ascii=False, default=str) + "\n")


def show(progress: Progress, run: Run) -> None:
    """Show the report: a table of faults, the numbers, and the cases that were found."""
    told = as_json(run)
    table = Table("fault", "target", "times", title=f"seed {run.seed}: {run.faults} faults in {run.seconds:.0f} s")
    for kind, targets in told["faults_by_kind_and_target"].items():
        table.add_row(kind, ", ".join(f"{target} {n}" for target, n in targets.items()), str(sum(targets.values())))
    progress.console.print(table)
    for what, times in sorted(run.verdict.summary().items()):
        progress.console.print(f"  {times:5} × {what}", markup=False)
    cases = [*run.verdict.lost, *run.verdict.doubled, *run.verdict.disordered]
    for case in cases[:CASES_SHOWN]:
        progress.console.print(f"  {case}", markup=False)
    if len(cases) > CASES_SHOWN:
        progress.console.print(f"  … and {len(cases) - CASES_SHOWN} more in the report", markup=False)
    for left in run.stuck:
        progress.console.print(f"  stuck: {left}", markup=False)
    shown = ("seed", "faults", "events", "lost", "doubled", "disordered", "repeats", "letters", "republished", "lag", "seconds")
    progress.say(f"{'passed' if run.passed else 'FAILED'}: " + ", ".join(f"{name} {told[name]}" for name in shown))
