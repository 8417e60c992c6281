"""One run: rounds in which each row has its turn, then the waits, all on the same servers."""

import functools
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import stand
from bench.processes import BenchError
from bench.report import Results
from bench.row import Row, Waits
from bench.stand import Say, Stand


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    events: int = 600_000
    rounds: int = 3
    latency_s: float = 10.0
    all_waits: bool = True  # else of our own rows only

    def __str__(self) -> str:
        return f"{self.events:,} events × row's share, {self.rounds} rounds, waits over {self.latency_s:g} s"


QUICK = Plan(events=100_000, rounds=1, latency_s=2.0, all_waits=False)


def run(rows: Sequence[Row], plan: Plan, say: Say) -> tuple[list[Results], list[str]]:
    """Measure `rows`; the results, and what was wrong with them."""
    results = [Results(row) for row in rows]
    faults: list[str] = []
    with stand.running(say) as servers:
        for n in range(1, plan.rounds + 1):
            for one in results:
                faults += _kept(
                    one, f"round {n}/{plan.rounds}", functools.partial(_measure, one, servers, plan, f"round {n}/{plan.rounds}", say), say
                )
        if plan.latency_s:
            for one in results:
                if one.rounds and (plan.all_waits or one.row.kind == "ours"):
                    faults += _kept(one, "waits", functools.partial(_wait, one, servers, plan, say), say)
    return [one for one in results if one.rounds], faults


def _kept(one: Results, what: str, work: Callable[[], list[str]], say: Say) -> list[str]:
    """What is wrong with a part of the run. One that cannot be measured does not take the others with it."""
    try:
        return work()
    except BenchError as exc:
        say(f"{what}: {one.row.name}: FAILED: {exc}")
        return [f"{one.row.name}, {what}: {exc}"]


def _measure(one: Results, servers: Stand, plan: Plan, which: str, say: Say) -> list[str]:
    began = time.monotonic()
    measured = one.measure(servers, plan.events)
    gc.collect()  # the checks hold every row in memory
    wrong = "".join(f"; WRONG: {fault}" for fault in measured.faults)
    say(f"{which}: {one.row.name}: {measured}; {time.monotonic() - began:.0f} s with preparation and checks{wrong}")
    return [f"{one.row.name}, {which}: {fault}" for fault in measured.faults]


def _wait(one: Results, servers: Stand, plan: Plan, say: Say) -> list[str]:
    one.idle = one.row.waits(servers, None, plan.latency_s)
    if one.idle is None:
        return []
    one.half_load = one.row.waits(servers, one.median / 2, plan.latency_s)
    say(f"waits of {one.row.name}: idle {_shown(one.idle)}, at half load {_shown(one.half_load)}")
    return []


def _shown(found: Waits | None) -> str:
    return "none" if found is None else f"p50 {found.part(0.5):.1f} ms, p99 {found.part(0.99):.1f} ms ({len(found.ms)})"
