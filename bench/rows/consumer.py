"""Rows that consume the loaded topic into inbox and orders: ours, the peers and the hand-written loop, all measured in one way.

The topic is written before. The clock starts when the warm-up's last row goes into the inbox and ends when the group's committed
offsets are at the end of the topic: what is measured is the steady state, and with it the last commit of offsets.
"""

import contextlib
import functools
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bench import verify
from bench.dataset import OCCURRED_AT, Dataset
from bench.meter import Meter
from bench.processes import Process, eventually
from bench.row import Kind, Measured, Waits, sizes
from bench.rows import probe
from bench.stand import Offsets, Stand

STALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """What the processes of a row are to do."""

    stand: Stand
    database: str
    topic: str
    group: str


# Starts the processes of a row; they are ready, or about to be, when it returns.
Start = Callable[[Job], list[Process]]


@dataclass(frozen=True, slots=True)
class ConsumerRow:
    """One of them. The fields beyond `start` are what growth varies."""

    name: str
    title: str
    kind: Kind
    share: float
    start: Start
    partitions: int = 8
    old_rows: int = 0
    value_bytes: int = 0
    timed: bool = False  # ids as our processes make them
    filled: str = ""  # statements that fill the database further
    ended: Callable[[Job], None] = field(default=lambda _job: None, compare=False)
    looks: list[Meter] = field(default_factory=list, compare=False)  # the last run's

    def measure(self, stand: Stand, events: int) -> Measured:
        """Consume the topic once."""
        measured, warm_up = sizes(events, self.share)
        dataset = Dataset(measured + warm_up, value_bytes=self.value_bytes, timed=self.timed)
        topic = stand.loaded_topic(dataset, self.partitions)
        with (
            stand.database(dataset, self.old_rows, self.filled) as database,
            self._started(Job(stand, database, topic, _group())) as (job, processes),
        ):
            offsets = Offsets(stand, job.group, topic, self.partitions)
            meter = Meter({process.name: process.pid for process in (*processes, stand.postgres, stand.kafka)})
            try:
                found = _consumed(self.name, offsets, dataset.count, processes)
                end = time.time()
            finally:
                meter.stop()
                offsets.close()
            self.looks[:] = [meter]
            self.ended(job)
            began = stand.sql(_BEGAN.format(warm_up=warm_up), database)
            wrong = verify.committed(dataset.count, found) + faults(stand, database, dataset)
        start = float(began[0][0]) if began else end
        return Measured(measured, end - start, meter.cpu_s(start, end), meter.rss_mib(start, end), wrong)

    def waits(self, stand: Stand, per_second: float | None, seconds: float) -> Waits | None:
        """From handing an event to Kafka's client to its row being visible in PostgreSQL. None for what a wait does not depend on."""
        if self.timed:
            return None
        topic = stand.topic(self.partitions)
        load = 0 if per_second is None else round(per_second * seconds * 1.5)
        dataset = Dataset(load + probe.EVENTS_MAX)
        with stand.database(dataset) as database, self._started(Job(stand, database, topic, _group())):
            return probe.consumer(stand, database, topic, dataset, load=load, per_second=per_second, seconds=seconds)

    @contextlib.contextmanager
    def _started(self, job: Job) -> Iterator[tuple[Job, list[Process]]]:
        processes = self.start(job)
        try:
            yield job, processes
        finally:
            for process in processes:
                process.stop()


_INBOX = f"FROM order_inbox_events WHERE occurred_at = '{OCCURRED_AT.isoformat()}'"  # the old rows have other times
_BEGAN = f"SELECT extract(epoch FROM received_at) {_INBOX} ORDER BY received_at OFFSET {{warm_up}} - 1 LIMIT 1"  # noqa: S608  constants


def _consumed(name: str, offsets: Offsets, wanted: int, processes: list[Process]) -> int:
    """What is committed, once that is all. Raises BenchError when nothing moves."""
    found = 0
    while found < wanted:
        before = found
        found = eventually(functools.partial(_more, offsets, before), f"{name} to go on after {before} events", STALL_S, processes)
    return found


def _more(offsets: Offsets, before: int) -> int:
    found = offsets.committed()
    return found if found > before else 0


def faults(stand: Stand, database: str, dataset: Dataset) -> list[str]:
    """What is wrong in a database in which the whole of `dataset` was consumed."""
    inbox = stand.sql(f"SELECT event_id, order_id {_INBOX}", database)
    orders = stand.sql("SELECT id, status FROM orders WHERE user_id NOT LIKE 'old-%'", database)
    return verify.consumed(dataset.expected(), inbox, orders)


def _group() -> str:
    return f"bench-{uuid.uuid4().hex[:12]}"
