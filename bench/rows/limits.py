"""Rows of one server alone."""

from dataclasses import dataclass

from bench.dataset import Dataset
from bench.meter import Meter
from bench.processes import python
from bench.row import Kind, Measured, Waits, sizes
from bench.rows import consumer
from bench.stand import Stand

LIMIT_S = 900.0
ROLE = "orderflow_order"


@dataclass(frozen=True, slots=True)
class PostgresRow:
    """The statement alone, on two connections."""

    name: str = "postgres_alone"
    title: str = "PostgreSQL alone, 2 connections, batches of 500"
    kind: Kind = "limit"
    share: float = 1.0
    timed: bool = False

    def measure(self, stand: Stand, events: int) -> Measured:
        """Apply all events."""
        measured, warm_up = sizes(events, self.share)
        dataset = Dataset(measured + warm_up, timed=self.timed)
        with stand.database(dataset) as database:
            env = {"DSN": stand.dsn(database, ROLE)}
            ids = "timed" if self.timed else "random"
            program = stand.process("client", python("bench.limits.postgres_alone", str(measured), str(warm_up), ids), env)
            meter = Meter({"client": program.pid, "postgres": stand.postgres.pid})
            try:
                told = program.result(LIMIT_S)
            finally:
                meter.stop()
                program.stop()
            faults = consumer.faults(stand, database, dataset)
        start, end = told["started_at"], told["ended_at"]
        return Measured(measured, end - start, meter.cpu_s(start, end), meter.rss_mib(start, end), faults)

    def waits(self, stand: Stand, per_second: float | None, seconds: float) -> Waits | None:
        """None: nothing waits."""
        return None


@dataclass(frozen=True, slots=True)
class KafkaRow:
    """Reading the topic alone."""

    name: str = "kafka_alone"
    title: str = "Kafka alone: consume"
    kind: Kind = "limit"
    share: float = 2.0

    def measure(self, stand: Stand, events: int) -> Measured:
        """Read the topic that the full path reads, often enough."""
        dataset = Dataset(sum(sizes(events, 1.0)))
        topic = stand.loaded_topic(dataset)
        times = max(1, round(self.share))
        env = {"KAFKA_BROKERS": stand.brokers, "TOPIC": topic}
        program = stand.process("client", python("bench.limits.kafka_alone", str(dataset.count), str(times), "8"), env)
        meter = Meter({"client": program.pid, "kafka": stand.kafka.pid})
        try:
            told = program.result(LIMIT_S)
        finally:
            meter.stop()
            program.stop()
        start, end = told["started_at"], told["ended_at"]
        return Measured(times * dataset.count, end - start, meter.cpu_s(start, end), meter.rss_mib(start, end))

    def waits(self, stand: Stand, per_second: float | None, seconds: float) -> Waits | None:
        """None: nothing waits."""
        return None
