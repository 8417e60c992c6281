"""The relay alone."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, TopicPartition

from bench import verify
from bench.dataset import CLIENT, Dataset
from bench.meter import Meter
from bench.processes import BenchError, Process, eventually
from bench.row import Kind, Measured, Waits, sizes
from bench.rows import probe, starting
from bench.stand import Stand
from shared import config, database, outbox

LIMIT_S = 900.0
PARTITIONS = 8
STAGE_ROWS = 1000
PRODUCER = "bench"


@dataclass(frozen=True, slots=True)
class RelayRow:
    """outbox rows → topic. All become visible with one commit, which the relay is told of as a writer would tell it."""

    name: str = "relay"
    title: str = "outbox relay: rows → topic"
    kind: Kind = "ours"
    share: float = 0.2
    looks: list[Meter] = field(default_factory=list, compare=False)  # the last run's

    def measure(self, stand: Stand, events: int) -> Measured:
        """Publish them all."""
        measured, warm_up = sizes(events, self.share)
        with self._running(stand) as (name, topic, relay):
            base = owner(stand, name)
            meter = Meter({one.name: one.pid for one in (relay, stand.postgres, stand.kafka)})
            try:
                _stage(base, Dataset(warm_up, seed=2), topic)
                _wait_sent(stand, topic, warm_up, relay)
                dataset = Dataset(measured)
                start = _stage(base, dataset, topic)
                _wait_sent(stand, topic, warm_up + measured, relay)
                eventually(lambda: _unsent(base) == 0, "all rows to be marked", LIMIT_S, [relay])
                end = time.time()
            finally:
                meter.stop()
            self.looks[:] = [meter]
            wanted = itertools.chain(Dataset(warm_up, seed=2).expected(), dataset.expected())
            faults = verify.published(wanted, records(stand, topic), _unsent(base))
            base.close()
        return Measured(measured, end - start, meter.cpu_s(start, end), meter.rss_mib(start, end), faults)

    def waits(self, stand: Stand, per_second: float | None, seconds: float) -> Waits | None:
        """From before the insert to the record being there for a consumer, one row at a time."""
        if per_second is not None:
            return None
        events = Dataset(probe.EVENTS_MAX).assembled()
        with self._running(stand) as (name, topic, _):
            base = owner(stand, name)
            settings = _settings(topic)
            seen: set[str] = set()
            with _reader(stand, topic) as reader:

                def cause() -> str:
                    event = next(events)
                    base.transact(lambda tx: outbox.stage(tx, [event], producer=PRODUCER, settings=settings))
                    base.transact(lambda tx: tx.run(f"NOTIFY {outbox.CHANNEL}"))
                    return event.event_id

                def is_there(event_id: str) -> bool:
                    message = reader.poll(0.005)
                    if message is not None and message.error() is None:
                        seen.add(_event_id(message.headers()))
                    return event_id in seen

                for _ in range(probe.WARM_UP):
                    probe.wait_ms(cause, is_there, late_s=120.0)
                found = probe.collect(cause, is_there, seconds)
            base.close()
            return found

    @contextlib.contextmanager
    def _running(self, stand: Stand) -> Iterator[tuple[str, str, Process]]:
        with stand.database(Dataset(0)) as name:
            relay = starting.relay(stand, name)
            try:
                yield name, stand.topic(PARTITIONS), relay
            finally:
                relay.stop()


def records(stand: Stand, topic: str) -> list[tuple[int, str, str]]:
    """Partition, key and event id of every record of a topic."""
    found: list[tuple[int, str, str]] = []
    with _reader(stand, topic, "earliest") as reader:
        ends = 0
        while ends < PARTITIONS:
            for message in reader.consume(1000, 5.0):
                error = message.error()
                if error is None:
                    found.append((message.partition() or 0, (message.key() or b"").decode(), _event_id(message.headers())))
                elif error.code() == KafkaError._PARTITION_EOF:
                    ends += 1
                else:
                    raise BenchError(error.str())
    return found


@contextlib.contextmanager
def _reader(stand: Stand, topic: str, begin: str = "latest") -> Iterator[Consumer]:
    """A consumer of all partitions in no group."""
    settings = {"bootstrap.servers": stand.brokers, "group.id": "bench-reader", "enable.auto.commit": False, "fetch.wait.max.ms": 5}
    reader = Consumer(CLIENT | settings | {"enable.partition.eof": begin == "earliest"})
    places = [TopicPartition(topic, n) for n in range(PARTITIONS)]
    for place in places:  # asked for now: "the end" as a position is looked up later, and what is written until then would be missed
        place.offset = 0 if begin == "earliest" else reader.get_watermark_offsets(place, timeout=10)[1]
    reader.assign(places)
    try:
        yield reader
    finally:
        reader.close()


def _event_id(headers: object) -> str:
    return next((raw.decode() for name, raw in headers or () if name == "ce_id"), "")  # type: ignore[attr-defined]


def owner(stand: Stand, name: str) -> database.Database:
    return database.Database(stand.dsn(name), settings=config.Settings(statement_timeout=600, delivery_deadline=900), application="bench")


def _settings(topic: str) -> config.Settings:
    return config.Settings(overrides={"KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC": topic})


def _stage(base: database.Database, dataset: Dataset, topic: str) -> float:
    """Stage all of it in one transaction; when that was committed."""
    settings, events = _settings(topic), dataset.assembled()

    def work(tx: database.Transaction) -> None:
        while part := list(itertools.islice(events, STAGE_ROWS)):
            outbox.stage(tx, part, producer=PRODUCER, settings=settings)

    base.transact(work)
    committed_at = time.time()
    base.transact(lambda tx: tx.run(f"NOTIFY {outbox.CHANNEL}"))
    return committed_at


def _wait_sent(stand: Stand, topic: str, count: int, relay: Process) -> None:
    with _reader(stand, topic) as reader:
        places = [TopicPartition(topic, n) for n in range(PARTITIONS)]

        def there() -> int:
            return sum(reader.get_watermark_offsets(place, timeout=10)[1] for place in places)

        eventually(lambda: there() >= count, f"{count} records on {topic}", LIMIT_S, [relay], every_s=0.05)


def _unsent(base: database.Database) -> int:
    rows = base.transact(lambda tx: tx.run("SELECT count(*) FROM order_outbox_events WHERE status <> 'sent'"))
    return int(rows[0][0])
