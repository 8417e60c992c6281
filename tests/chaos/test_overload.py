"""The verdict on an overload, and the load itself against a function that is told to take little."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chaos import overload_load, overload_report
from chaos.overload_report import Overload
from ops import child, home
from tests import conftest, stack


def load(**changes: Any) -> dict[str, Any]:
    statuses = {"201": 100, "429 too_many_at_once": 150, "503 unavailable": 50}
    found: dict[str, Any] = {"offered": 310, "sent": 300, "unsent": 10, "done": 100, "statuses": statuses, "without_retry_after": 0}
    return found | {"waits_ms": {"p50": 1.0, "p99": 2.0, "max": 3.0}, "windows_ms": []} | changes


def run(looks: list[float] | None = None, **changes: Any) -> Overload:
    """A run whose load lasted from the 10th second to the 110th; `looks` are its memory, one a second from the first on."""
    given: dict[str, Any] = {
        "minutes": 1.0, "factor": 3.0, "alone": {"orders": 10.0, "chain": 5.0}, "loads": {"orders": load()}, "loaded": (10.0, 110.0),
        "looks": [(float(second), {"orders": mib, "kafka": 10 * mib}) for second, mib in enumerate(looks or [50.0] * 150)],
        "drained_s": 30.0, "left": "", "missing": {"orders": 0, "events": 0},
    }  # fmt: skip
    return Overload(**given | changes)


def test_what_is_refused_and_told_when_to_come_again_is_well() -> None:
    assert run().faults() == []
    assert overload_report.as_json(run())["passed"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"loads": {"orders": load(statuses={"201": 1, "500 bug": 2})}}, "orders: {'500 bug': 2}"),
        ({"loads": {"orders": load(statuses={"connection lost": 1})}}, "connection lost"),
        ({"loads": {"orders": load(statuses={"207 with 422": 1})}}, "207 with 422"),
        ({"loads": {"orders": load(without_retry_after=1)}}, "do not say when"),
        ({"loads": {"orders": load(done=0)}}, "nothing was taken"),
        ({"loads": {"orders": load(done=310)}}, "it was no overload"),
        ({"left": "assembly-service lags by 3"}, "not drained: assembly-service lags by 3"),
        ({"missing": {"orders": 2, "events": 0}}, "2 orders that were answered well are not there"),
        ({"looks": [60.0 + 2 * second for second in range(150)]}, "orders: grew from"),
        ({"looks": [401.0] * 150}, "orders: took 401 MiB"),
    ],
)
def test_whatever_else_is_a_fault(changes: dict[str, Any], fault: str) -> None:
    (found,) = run(**changes).faults()
    assert fault in found


def test_the_memory_that_a_load_needs_at_its_beginning_is_no_growth() -> None:
    assert run([50.0] * 10 + [120.0] * 100 + [121.0] * 40).faults() == []


@pytest.mark.parametrize("kind", ["orders", "events"])
def test_a_load_is_counted_by_its_answers_and_what_was_taken_is_there(
    start_function: conftest.StartFunction, database: stack.TestDatabase, tmp_path: Path, kind: str
) -> None:
    """More than one place, or a queue of one event, takes: the rest is told to come again, and nothing else is answered."""
    name = {"orders": "orders", "events": "order_on_assembled"}[kind]
    dsn = database.dsn("orderflow_order") if kind == "events" else database.environment()["ORDER_POSTGRES_DSN"]
    limits = {"ORDERS_CONCURRENT_REQUESTS_MAX": "1", "QUEUE_EVENTS_MAX": "1", "POSTGRES_CONNECTIONS": "1"}
    url = start_function(name, {"ORDER_POSTGRES_DSN": dsn} | limits).url
    accepted = tmp_path / "load.accepted"
    job = {"url": f"{url}/orders" if kind == "orders" else url, "kind": kind, "name": "load", "seconds": 1.0, "connections": 16,
           "per_second": 200.0, "accepted": str(accepted)}  # fmt: skip
    command = [sys.executable, "-m", "chaos.overload_load", json.dumps(job)]
    ran = subprocess.run(child.guarded(command), cwd=home.CHECKOUT, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(ran.stdout)
    assert overload_report.others(found) == {}
    assert (found["sent"], found["without_retry_after"]) == (sum(found["statuses"].values()), 0)
    taken = accepted.read_text(encoding="utf-8").splitlines()
    assert 0 < found["done"] == len(taken)
    if kind == "orders":
        assert sorted(taken) == sorted(row[0] for row in database.run("SELECT id FROM orders"))
    else:
        assert len(taken) * overload_load.BATCH_EVENTS == database.run("SELECT count(*) FROM order_inbox_events")[0][0]
