"""The whole chain from an order to its assembly."""

import contextlib
import functools
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from bench import verify
from bench.dataset import Dataset, new_orders
from bench.meter import Meter
from bench.processes import Process, eventually
from bench.row import Kind, Measured, Waits, sizes
from bench.rows import consumer, outbox, probe, requests, starting
from bench.stand import Offsets, Stand

LIMIT_S = 900.0
PARTITIONS = 8


@dataclass(frozen=True, slots=True)
class ChainRow:
    """POST /orders → relay → source → assembly → relay → source → assembled, with an assembly time of 0. Without notify."""

    name: str = "chain"
    title: str = "whole chain: order → assembled, assembly time 0"
    kind: Kind = "ours"
    share: float = 0.02

    def measure(self, stand: Stand, events: int) -> Measured:
        """Place orders as fast as they are answered, and wait until all are assembled."""
        measured, warm_up = sizes(events, self.share)
        with stand.database(Dataset(0)) as name, self._running(stand, name) as (orders, processes, offsets):
            meter = Meter({one.name: one.pid for one in (*processes, stand.postgres, stand.kafka)})
            try:
                told = []
                for count in (warm_up, measured):
                    start = time.time()
                    loader = requests.load(stand, f"{orders.url}/orders", "orders", count=count, warm_up=0, connections=64)
                    told.append(loader.result(LIMIT_S))
                    wanted = sum(len(one["locations"]) for one in told)
                    eventually(functools.partial(_all, offsets, wanted), "all orders to be assembled", LIMIT_S, processes)
                    end = time.time()
            finally:
                meter.stop()
            start = max(start, told[-1]["started_at"])
            ids = [order_id for one in told for order_id in one["locations"]]
            faults = verify.answered(measured, told[-1]["statuses"], 201) + requests.placed(stand, name, ids, warm_up + measured)
            faults += self._faults(stand, name, ids)
        return Measured(measured, end - start, meter.cpu_s(start, end), meter.rss_mib(start, end), faults)

    def waits(self, stand: Stand, per_second: float | None, seconds: float) -> Waits | None:
        """From sending an order to its row being assembled, one order at a time."""
        if per_second is not None:
            return None
        bodies = iter(new_orders(probe.EVENTS_MAX))
        with stand.database(Dataset(0)) as name, self._running(stand, name) as (orders, _, _), httpx.Client(trust_env=False) as client:
            base = outbox.owner(stand, name)
            with base.session() as look:

                def cause() -> str:
                    answer = client.post(f"{orders.url}/orders", content=next(bodies), headers={"content-type": "application/json"})
                    return str(answer.json()["id"])

                def is_there(order_id: str) -> bool:
                    return bool(look.run("SELECT 1 FROM orders WHERE id = :id AND status = 'assembled'", id=order_id))

                for _ in range(probe.WARM_UP):
                    probe.wait_ms(cause, is_there, late_s=120.0)
                found = probe.collect(cause, is_there, seconds)
            base.close()
            return found

    @contextlib.contextmanager
    def _running(self, stand: Stand, name: str) -> Iterator[tuple[Process, list[Process], Offsets]]:
        payments, assemblies, group = stand.topic(PARTITIONS), stand.topic(PARTITIONS), f"bench-{uuid.uuid4().hex[:12]}"
        called = {
            "KAFKA_ORDER_PAYMENT_COMPLETED_TOPIC": payments,
            "KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC": assemblies,
            "KAFKA_ORDER_CONSUMER_GROUP_ID": group,
            "KAFKA_ASSEMBLY_CONSUMER_GROUP_ID": f"{group}-assembly",
            "ASSEMBLY_DURATION": "0s",
        }
        started: list[Process] = []
        offsets = Offsets(stand, group, assemblies, PARTITIONS)
        try:
            orders, assembly, assembled = (starting.function(stand, each, name, each, called) for each in _FUNCTIONS)
            started += [orders, assembly, assembled]
            started.append(starting.relay(stand, name, called))
            sinks = {"assembly-on-payment": assembly.url, "order-on-assembled": assembled.url}
            started.append(starting.source(consumer.Job(stand, name, payments, group), sinks, called))
            yield orders, started, offsets
        finally:
            for process in reversed(started):
                process.stop()
            offsets.close()

    def _faults(self, stand: Stand, name: str, ids: list[str]) -> list[str]:
        found: list[str] = []
        for what, sql in {
            "assembled orders": "SELECT id FROM orders WHERE status = 'assembled'",
            "assembly inbox": "SELECT order_id FROM assembly_inbox_events",
            "order inbox": "SELECT order_id FROM order_inbox_events",
            "published payments": _SENT.format("order.payment.completed"),
            "published assemblies": _SENT.format("order.assembly.completed"),
        }.items():
            found += verify.once(what, ids, (row[0] for row in stand.sql(sql, name)))
        return found


_FUNCTIONS = ("orders", "assembly_on_payment", "order_on_assembled")
_SENT = "SELECT aggregate_id FROM order_outbox_events WHERE event_type = '{}' AND status = 'sent'"


def _all(offsets: Offsets, wanted: int) -> bool:
    return offsets.committed() >= wanted
