"""What a run found: latest.json, and the table. Nothing here comes from anywhere but that run."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from bench.row import Measured, Row, Waits
from bench.stand import Stand

RESULTS = Path(__file__).resolve().parent / "results"
FULL_PATH = ("full_path", "full_path_two")
DISPATCHER_PER_S = 1466  # what the shipped Knative dispatcher can send at most, unordered


@dataclass
class Results:
    """Everything measured of one row."""

    row: Row
    rounds: list[Measured] = field(default_factory=list)
    idle: Waits | None = None
    half_load: Waits | None = None

    def measure(self, stand: Stand, events: int) -> Measured:
        """One round more."""
        self.rounds.append(self.row.measure(stand, events))
        return self.rounds[-1]

    def faults(self) -> list[str]:
        """What was wrong in any round."""
        return [f"{self.row.name}: {fault}" for one in self.rounds for fault in one.faults]

    @property
    def median(self) -> float:
        """Events a second, the middle of the rounds."""
        return statistics.median(one.events_per_second for one in self.rounds)

    def json(self) -> dict[str, Any]:
        """The row as latest.json has it."""
        speeds = [one.events_per_second for one in self.rounds]
        return {
            "name": self.row.name,
            "events_per_second": {"median": round(self.median, 1), "minimum": round(min(speeds), 1), "maximum": round(max(speeds), 1)},
            "cpu_us_per_event": _medians([one.cpu_us_per_event() for one in self.rounds], 2),
            "rss_mib": _medians([one.rss_mib for one in self.rounds], 1),
            "latency_ms": {"idle": _waits(self.idle), "half_load": _waits(self.half_load)},
        }


def document(results: Sequence[Results]) -> dict[str, Any]:
    """The whole of latest.json."""
    rows = [one.json() for one in results]
    return {"rows": rows, "ratios": ratios({row["name"]: row["events_per_second"]["median"] for row in rows})}


def ratios(medians: Mapping[str, float]) -> dict[str, float | None]:
    """How the rows stand to each other, from their medians; None where one was not run.

    The full path is that with the number of function processes that was faster in this run.
    """
    full_path = max((medians[name] for name in FULL_PATH if name in medians), default=None)
    return {
        "full_path_vs_hand_loop": _ratio(full_path, medians.get("hand_loop")),
        "full_path_vs_faststream_batch": _ratio(full_path, medians.get("faststream_batch")),
        "full_path_vs_faststream_one": _ratio(full_path, medians.get("faststream_one")),
        "single_vs_one_transaction": _ratio(medians.get("single_64"), medians.get("one_transaction")),
        "full_path_vs_postgres_alone": _ratio(full_path, medians.get("postgres_alone")),
    }


class Target(NamedTuple):
    """A figure that is to be reached."""

    what: str
    found: float | None
    wanted: float
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether it is; None where it was not measured."""
        if self.found is None:
            return None
        return self.found >= self.wanted if self.at_least else self.found <= self.wanted


def targets(found: Mapping[str, Any]) -> list[Target]:
    """Every target beside what `found`, a latest.json, says of it."""
    rows = {row["name"]: row for row in found["rows"]}
    wanted = {
        "full_path_vs_hand_loop": 0.9,
        "full_path_vs_faststream_batch": 10,
        "full_path_vs_faststream_one": 50,
        "full_path_vs_postgres_alone": 0.45,
        "single_vs_one_transaction": 6,
    }
    return [
        *(Target(name, found["ratios"][name], value) for name, value in wanted.items()),
        Target(
            "single_64: events/s, 5 × Knative's dispatcher", _at(rows, "single_64", "events_per_second", "median"), 5 * DISPATCHER_PER_S
        ),
        Target("full_path: idle p50, ms", _at(rows, "full_path", "latency_ms", "idle", "p50"), 5, at_least=False),
        Target("goal: relay, rows/s", _at(rows, "relay", "events_per_second", "median"), 20_000),
        Target("goal: orders_api, orders/s", _at(rows, "orders_api", "events_per_second", "median"), 2000),
        Target("goal: orders_api, p99 at half load, ms", _at(rows, "orders_api", "latency_ms", "half_load", "p99"), 50, at_least=False),
    ]


def write(found: Mapping[str, Any], file: Path) -> None:
    """Write it, readable."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def show(results: Sequence[Results], found: Mapping[str, Any], about: str, console: Console) -> None:
    """Print the table, and the targets."""
    titles = {one.row.name: f"{one.row.title} ({one.row.kind})" for one in results}
    table = Table(box=box.SIMPLE_HEAD, title=about, title_justify="left")
    for name in ("row", "events/s", "min – max", "CPU µs/event", "MiB", "idle p50/p99 ms", "half load p50/p99 ms"):
        table.add_column(name, justify="left" if name in {"row", "CPU µs/event", "MiB"} else "right")
    for row in found["rows"]:
        speed, waits = row["events_per_second"], row["latency_ms"]
        table.add_row(
            titles.get(row["name"], row["name"]),
            f"{speed['median']:,.0f}",
            f"{speed['minimum']:,.0f} – {speed['maximum']:,.0f}",
            ", ".join(f"{name} {value:.1f}" for name, value in row["cpu_us_per_event"].items()),
            ", ".join(f"{name} {value:.0f}" for name, value in row["rss_mib"].items()),
            _pair(waits["idle"]),
            _pair(waits["half_load"]),
        )
    console.print(table)
    goals = Table(box=box.SIMPLE_HEAD)
    for name in ("target", "found", "wanted", "met"):
        goals.add_column(name, justify="left" if name == "target" else "right")
    for target in targets(found):
        shown = "–" if target.found is None else f"{target.found:,.2f}"
        met = {True: "yes", False: "no", None: "not run"}[target.met]
        goals.add_row(target.what, shown, f"{'≥' if target.at_least else '≤'} {target.wanted:,.2f}", met)
    console.print(goals)


def machine() -> str:
    """What was measured on."""
    memory_gib = psutil.virtual_memory().total / (1 << 30)
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.machine()}, Python {platform.python_version()}, load {load:.1f}"


def _medians(found: Sequence[Mapping[str, float]], digits: int) -> dict[str, float]:
    return {name: round(statistics.median(one.get(name, 0.0) for one in found), digits) for name in found[0]}


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or not theirs else round(ours / theirs, 3)


def _waits(found: Waits | None) -> dict[str, float] | None:
    return None if found is None or not found.ms else {"p50": round(found.part(0.5), 2), "p99": round(found.part(0.99), 2)}


def _pair(waits: Mapping[str, float] | None) -> str:
    return "–" if waits is None else f"{waits['p50']:.1f} / {waits['p99']:.1f}"


def _at(rows: Mapping[str, Any], *path: str) -> float | None:
    value: Any = rows
    for name in path:
        value = value.get(name) if value is not None else None
    found: float | None = value
    return found
