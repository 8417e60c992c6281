"""What an overload has to leave whole, and how it is shown. The verdict goes by counts and by memory; waits are told, not judged."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from rich import box
from rich.table import Table

from chaos.overload_load import BATCH_EVENTS
from chaos.report import Progress

# Wide, for what it has to find is memory that grows with the load: a fifth of a way into it buffers have their size.
SETTLED, GROWTH_MAX, GROWTH_MAX_MIB = 0.2, 1.25, 48.0
RSS_MAX_MIB = 400.0
SERVERS = ("kafka", "postgres")  # theirs counts pages of files
GOOD = ("200", "201")
COME_AGAIN = ("429 ", "503 ", "207 with 200", "207 with 429", "207 with 503")


@dataclass(frozen=True, slots=True)
class Overload:
    """A run that came to its end. `loaded` are the seconds in which the load began and ended, `looks` memory (MiB) by seconds."""

    minutes: float
    factor: float
    alone: dict[str, float]
    loads: dict[str, dict[str, Any]]
    loaded: tuple[float, float]
    looks: list[tuple[float, dict[str, float]]]
    drained_s: float
    left: str
    missing: dict[str, int]

    @property
    def passed(self) -> bool:
        """Whether it held."""
        return not self.faults()

    def faults(self) -> list[str]:
        """What did not hold."""
        found = [f"{kind}: {others(load)}: neither done nor told to come again" for kind, load in self.loads.items() if others(load)]
        for kind, load in self.loads.items():
            if load["without_retry_after"]:
                found.append(f"{kind}: {load['without_retry_after']} answers do not say when to come again")
            if not load["done"]:
                found.append(f"{kind}: nothing was taken")
            if load["done"] >= load["offered"]:
                found.append(f"{kind}: all of it was taken, so it was no overload")
        found += [f"{name}: {fault}" for name, mib in self.memory().items() if name not in SERVERS and (fault := _grown(mib))]
        found += [f"not drained: {self.left}"] if self.left else []
        return [*found, *(f"{count} {kind} that were answered well are not there" for kind, count in self.missing.items() if count)]

    def memory(self) -> dict[str, dict[str, float]]:
        """Of each process, in MiB: when the load began, when it had settled, at its end, and the most until all was drained."""
        began, ended = self.loaded
        settled = began + SETTLED * (ended - began)
        late = ended - SETTLED * (ended - began)
        spans = {"before": (0.0, began), "settled": (settled, 2 * settled - began), "end": (late, ended), "drained": (ended, float("inf"))}
        names = self.looks[0][1] if self.looks else {}
        found = {}
        for name in names:
            within = {span: [mib[name] for at, mib in self.looks if first <= at < last] for span, (first, last) in spans.items()}
            found[name] = {span: round(median(values), 1) for span, values in within.items() if values}
            found[name]["most"] = round(max(mib[name] for _, mib in self.looks), 1)
        return found


def others(load: dict[str, Any]) -> dict[str, int]:
    """The answers that an overload must not bring, and requests without one."""
    return {
        status: count for status, count in load["statuses"].items() if count and status not in GOOD and not status.startswith(COME_AGAIN)
    }


def _grown(mib: dict[str, float]) -> str:
    before, after = mib.get("settled", 0.0), mib.get("end", 0.0)
    if mib["most"] > RSS_MAX_MIB:
        return f"took {mib['most']:.0f} MiB, more than {RSS_MAX_MIB:.0f}"
    return f"grew from {before:.0f} to {after:.0f} MiB" if after > GROWTH_MAX * before + GROWTH_MAX_MIB else ""


def as_json(run: Overload) -> dict[str, Any]:
    """The report: the verdict, then the numbers. `alone` are requests a second; one with events brings `batch_events`."""
    return {
        "passed": run.passed,
        "faults": run.faults(),
        "minutes": run.minutes,
        "factor": run.factor,
        "batch_events": BATCH_EVENTS,
        "alone_per_second": {kind: round(rate, 1) for kind, rate in run.alone.items()},
        "loads": {kind: load | {"others": others(load)} for kind, load in run.loads.items()},
        "memory_mib": run.memory(),
        "drained_s": round(run.drained_s, 1),
        "left": run.left,
        "missing": run.missing,
    }


def show(progress: Progress, run: Overload) -> None:
    """Two tables and the verdict."""
    seconds = run.minutes * 60
    columns = ("alone", "offered", "sent", "taken", "429", "503", "others", "p50 ms", "p99 ms")
    table = Table("", *columns, title=f"{run.minutes:g} minutes: how many a second", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for kind, load in run.loads.items():
        each = BATCH_EVENTS if kind == "events" else 1
        refused = (sum(n for status, n in load["statuses"].items() if status.startswith(code)) for code in ("429", "503"))
        rates = [run.alone[kind], *(n / seconds for n in (load["offered"], load["sent"], load["done"], *refused))]
        waits = (f"{load['waits_ms'].get(share, 0):.0f}" for share in ("p50", "p99"))
        table.add_row(kind, *(f"{rate * each:.0f}" for rate in rates), str(sum(others(load).values())), *waits)
    progress.console.print(table)
    memory = Table("MiB", "before", "settled", "end", "drained", "most", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name, mib in run.memory().items():
        memory.add_row(name, *(f"{mib.get(span, 0):.0f}" for span in ("before", "settled", "end", "drained", "most")))
    progress.console.print(memory)
    for fault in run.faults():
        progress.console.print(f"  {fault}", markup=False)
    chain = f"the chain alone {run.alone['chain']:.0f} orders a second"
    progress.say(f"{'passed' if run.passed else 'FAILED'}: drained after {run.drained_s:.0f} s; {chain}; missing {run.missing}")
