"""Rows that answer HTTP requests: single deliveries as a KafkaSource sends them, and orders that are placed."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench import verify
from bench.dataset import Dataset
from bench.meter import Meter
from bench.processes import Process, python
from bench.row import Kind, Measured, Waits, sizes
from bench.rows import consumer, starting
from bench.stand import Stand

LIMIT_S = 900.0
IDLE_PER_SECOND = 20.0
LATENCY_CONNECTIONS = 64


def load(stand: Stand, url: str, kind: str, *, count: int, warm_up: int, connections: int, per_second: float | None = None) -> Process:
    """The loader at work."""
    job = {"url": url, "kind": kind, "count": count, "warm_up": warm_up, "connections": connections, "per_second": per_second}
    return stand.process("loader", python("bench.http_load", json.dumps(job)), {})


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One of them."""

    name: str
    title: str
    kind: Kind
    share: float
    sends: str  # events or orders
    path: str
    in_flight: int
    start: Callable[[Stand, str], Process]

    def measure(self, stand: Stand, events: int) -> Measured:
        """Have all requests answered, as fast as they are."""
        measured, warm_up = sizes(events, self.share)
        dataset = Dataset(measured + warm_up)
        with self._running(stand, dataset) as (database, process):
            loader = load(stand, process.url + self.path, self.sends, count=dataset.count, warm_up=warm_up, connections=self.in_flight)
            meter = Meter({one.name: one.pid for one in (process, loader, stand.postgres)})
            try:
                told = loader.result(LIMIT_S)
            finally:
                meter.stop()
                loader.stop()
            faults = self._faults(stand, database, dataset, measured, told)
        start, end = told["started_at"], told["ended_at"]
        return Measured(measured, end - start, meter.cpu_s(start, end), meter.rss_mib(start, end), faults)

    def waits(self, stand: Stand, per_second: float | None, seconds: float) -> Waits | None:
        """From the moment a request was due to its answer."""
        rate = per_second or IDLE_PER_SECOND
        warm_up, measured = 200, max(20, round(rate * seconds))
        dataset = Dataset(warm_up + measured)
        with self._running(stand, dataset) as (_, process):
            loader = load(
                stand, process.url + self.path, self.sends,
                count=dataset.count, warm_up=warm_up, connections=LATENCY_CONNECTIONS, per_second=rate,
            )  # fmt: skip
            try:
                return Waits(loader.result(LIMIT_S)["waits_ms"])
            finally:
                loader.stop()

    @contextmanager
    def _running(self, stand: Stand, dataset: Dataset) -> Iterator[tuple[str, Process]]:
        wanted = dataset if self.sends == "events" else Dataset(0)
        with stand.database(wanted) as database:
            process = self.start(stand, database)
            try:
                yield database, process
            finally:
                process.stop()

    def _faults(self, stand: Stand, database: str, dataset: Dataset, measured: int, told: dict[str, Any]) -> list[str]:
        if self.sends == "events":
            return verify.answered(measured, told["statuses"], 200) + consumer.faults(stand, database, dataset)
        return verify.answered(measured, told["statuses"], 201) + placed(stand, database, told["locations"], dataset.count)


def placed(stand: Stand, database: str, ids: list[str], count: int) -> list[str]:
    """What is wrong with the orders that were answered with `ids`: order, both its items and its event are there once."""
    faults = [] if len(set(ids)) == count else [f"answers: {len(set(ids))} different orders, {count} were placed"]
    items = [row[0] for row in stand.sql("SELECT order_id FROM order_items", database)]
    staged = stand.sql("SELECT aggregate_id FROM order_outbox_events WHERE event_type = 'order.payment.completed'", database)
    return (
        faults
        + verify.once("orders", ids, (row[0] for row in stand.sql("SELECT id FROM orders", database)))
        + verify.once("items", [f"{each} {n}" for each in ids for n in (1, 2)], _numbered(items))
        + verify.once("outbox", ids, (row[0] for row in staged))
    )


def order_on_assembled(stand: Stand, database: str) -> Process:
    """Our function."""
    return starting.function(stand, "order_on_assembled", database)


def orders(stand: Stand, database: str) -> Process:
    """The orders API."""
    return starting.function(stand, "orders", database)


def _numbered(names: list[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        yield f"{name} {seen[name]}"
