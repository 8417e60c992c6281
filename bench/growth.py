"""Where it grows: the full path with more function processes, partitions, rows and bytes. `make bench-growth`."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench import report, stand
from bench.dataset import Dataset
from bench.report import Results
from bench.rows import starting
from bench.rows.consumer import ConsumerRow
from bench.stand import Say

INDEX_ROWS = 100_000  # to read a table of a few pages whole for a batch of 500 is the better plan
LARGE_SHARE = 0.1  # an event of 30 kB takes a hundred times the room of one of 300 B


@dataclass(frozen=True, slots=True)
class Step:
    """One size along one way."""

    way: str
    size: str
    row: ConsumerRow


def steps(old_rows: Sequence[int]) -> Iterator[Step]:
    """Every step."""
    for processes in (1, 2, 4):
        start = functools.partial(starting.full_path, processes=processes)
        yield Step("function processes", str(processes), ConsumerRow(f"processes_{processes}", "", "ours", 1.0, start))
    for partitions in (8, 64):
        row = ConsumerRow(f"partitions_{partitions}", "", "ours", 1.0, starting.full_path, partitions=partitions)
        yield Step("partitions", str(partitions), row)
    for way, ids, timed in (("rows before", "timed", True), ("rows before, random ids", "random", False)):
        for rows in old_rows:
            row = ConsumerRow(f"rows_{ids}_{rows}", "", "ours", 1.0, starting.full_path, old_rows=rows, timed=timed)
            yield Step(way, f"{rows:,}", row)
    for size, share in ((300, 1.0), (30_000, LARGE_SHARE)):
        row = ConsumerRow(f"bytes_{size}", "", "ours", share, starting.full_path, value_bytes=size)
        yield Step("bytes of a value", f"{size:,}", row)


def run(events: int, rounds: int, old_rows: Sequence[int], say: Say) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure every step in each round; what was found, and what was wrong."""
    chosen = list(steps(old_rows))
    results = [Results(step.row) for step in chosen]
    with stand.running(say) as servers:
        for n in range(1, rounds + 1):
            for one in results:
                say(f"round {n}/{rounds}: {one.row.name}: {one.measure(servers, events)}")
        plans = [plan for rows in old_rows for plan in _plans(servers, rows)]
    faults = [fault for one in results for fault in one.faults()]
    faults += [f"plan with {rows:,} rows: {plan}" for rows, plan in plans if "Seq Scan on orders" in plan and rows >= INDEX_ROWS]
    for rows, plan in plans:
        say(f"plan with {rows:,} rows: {plan}")
    found = [{"way": step.way, "size": step.size} | one.json() for step, one in zip(chosen, results, strict=True)]
    report.write({"steps": found}, report.RESULTS / "growth.json")
    return found, faults


def _plans(servers: stand.Stand, rows: int) -> Iterator[tuple[int, str]]:
    """How PostgreSQL would run the update of a batch of 500, in one line."""
    dataset = Dataset(500)
    ids = ",".join(f"'{order_id}'" for order_id in dataset.order_ids())
    with servers.database(dataset, rows) as name:
        sql = f"EXPLAIN (COSTS off) UPDATE orders SET status = 'assembled' WHERE id = ANY(ARRAY[{ids}]) AND status = 'paid'"  # noqa: S608  ids that the data set made
        lines = [row[0].strip() for row in servers.sql(sql, name) if "Cond" not in row[0] and "Filter" not in row[0]]
    yield rows, " ".join(lines)
