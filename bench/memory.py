"""Memory of source, function and relay over many events: flat, or not. `make bench-memory`."""

from typing import Any

from bench import report, stand
from bench.rows import outbox, starting
from bench.rows.consumer import ConsumerRow
from bench.stand import Say

SETTLED = 0.3  # by then buffers have their size and the allocator its pages
GROWTH_MAX = 0.10
LOOKS_MIN = 50  # of less than ten seconds most is the start
GROWTH_MIN_MIB = 8.0  # of a small process a tenth is noise


def run(events: int, say: Say) -> tuple[list[dict[str, Any]], list[str]]:
    """Push `events` through the full path, and as many rows through the relay; memory over time, and what grew."""
    rows: list[ConsumerRow | outbox.RelayRow] = [
        ConsumerRow("full_path", "full path", "ours", 1.0, starting.full_path),
        outbox.RelayRow(share=1.0),
    ]
    found: list[dict[str, Any]] = []
    faults: list[str] = []
    with stand.running(say) as servers:
        for row in rows:
            measured = row.measure(servers, events)
            looks = row.looks[0].looks
            began = looks[0].at
            names = [name for name in looks[0].rss_mib if name not in {"postgres", "kafka"}]
            rss_mib = {name: [round(look.rss_mib.get(name, 0.0), 1) for look in looks] for name in names}
            seconds = [round(look.at - began, 1) for look in looks]
            found.append({"name": row.name, "events": measured.events, "seconds": seconds, "rss_mib": rss_mib})
            for name, values in rss_mib.items():
                say(f"{row.name}: {name}: {_middle(values):.0f} MiB after a third, {max(values[-5:]):.0f} MiB at the end")
            faults += [f"{row.name}: {fault}" for fault in (*measured.faults, *grown(rss_mib))]
    report.write({"rows": found}, report.RESULTS / "memory.json")
    return found, faults


def grown(rss_mib: dict[str, list[float]]) -> list[str]:
    """Which processes hold clearly more at the end than after a third of the way."""
    faults = []
    for name, values in rss_mib.items():
        if len(values) < LOOKS_MIN:
            continue
        before, after = _middle(values), max(values[-5:])
        if after - before > max(GROWTH_MIN_MIB, GROWTH_MAX * before):
            faults.append(f"{name} grew from {before:.0f} to {after:.0f} MiB")
    return faults


def _middle(values: list[float]) -> float:
    return values[int(SETTLED * (len(values) - 1))]
